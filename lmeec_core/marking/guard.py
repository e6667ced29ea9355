"""Access control for the page: ASGI middleware.

A browser lets any web page send requests to 127.0.0.1, so listening only there is not enough.
Requests and web sockets must come from the page itself (Origin), be addressed to this machine
(Host; with DNS rebinding, a foreign name resolves to this machine) and, if the page can be reached
from other machines, contain a token.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "lmeec_mark_token"


class Guard:
    """Rejects requests that do not come from the page itself, with status 403.

    Args:
        app: the application to protect.
        token: the token that a request must contain, as ?token=... or in the cookie that is then
            set; None: no token is needed, but only loopback names are accepted as Host.
    """

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        self.app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request or web socket, or reject it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        reason = self._reason(headers, scope)
        if reason is not None:
            await _reject(reason, scope, receive, send)
            return
        cookie = self._token is not None and _query_token(scope) == self._token

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added["X-Frame-Options"] = "DENY"  # against clickjacking
                added["Referrer-Policy"] = "no-referrer"
                if cookie:
                    value = f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/"
                    added.append("Set-Cookie", value)
            await send(message)

        await self.app(scope, receive, answer)

    def _reason(self, headers: Headers, scope: Scope) -> str | None:
        """Why a request is rejected; None if it is accepted."""
        host = headers.get("host", "")
        if self._token is None and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return (
                f"Host {host!r} given, 127.0.0.1 or localhost expected: open the URL that lmeec "
                "mark printed"
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return f"Origin {origin!r} given, this page's own expected: {host}"
        opened = headers.get("sec-fetch-mode", "navigate") == "navigate"  # for example by a link
        if headers.get("sec-fetch-site") == "cross-site" and not opened:
            return "a request from another web page"
        if self._token is None:
            return None
        for given in (_query_token(scope), _cookie_token(headers)):
            if given is not None and hmac.compare_digest(given.encode(), self._token.encode()):
                return None
        return "the token is missing or wrong: open the URL with ?token= that lmeec mark printed"


def is_loopback(host: str) -> bool:
    """Whether a name or an address always refers to this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _query_token(scope: Scope) -> str | None:
    values = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token")
    return values[0] if values else None


def _cookie_token(headers: Headers) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


async def _reject(reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # the handshake; closing before accepting it is answered with 403
        await send({"type": "websocket.close", "code": 1008, "reason": reason[:100]})
        return
    await PlainTextResponse(f"refused: {reason}\n", 403)(scope, receive, send)
