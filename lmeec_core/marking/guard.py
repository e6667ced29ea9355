"""Who may talk to the page: an ASGI application around another one.

A browser lets any web page send requests to 127.0.0.1, so being bound there is no protection by
itself. Requests and web sockets must come from the page itself (Origin), be addressed to this
machine (Host; DNS rebinding gives a foreign name this machine's address) and, where the page can be
reached from other machines, bring a token.
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
    """Refuses what does not come from the page itself: with 403, before anything else sees it.

    Args:
        app: what is protected.
        token: what a request has to bring, as ?token=... or in the cookie that this sets; None: not
            needed. Without a token, only loopback names are accepted as Host.
    """

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        self.app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request or web socket on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        reason = self._reason(headers, scope)
        if reason is not None:
            await _refuse(reason, scope, receive, send)
            return
        cookie = self._token is not None and _query_token(scope) == self._token

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added["X-Frame-Options"] = "DENY"  # no clicks through another page
                added["Referrer-Policy"] = "no-referrer"
                if cookie:
                    value = f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/"
                    added.append("Set-Cookie", value)
            await send(message)

        await self.app(scope, receive, answer)

    def _reason(self, headers: Headers, scope: Scope) -> str | None:
        """Why a request is refused; None: it is not."""
        host = headers.get("host", "")
        if self._token is None and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return (
                f"Host {host!r} given, 127.0.0.1 or localhost expected: open the address that "
                "lmeec mark printed"
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return f"Origin {origin!r} given, this page's own expected: {host}"
        opened = headers.get("sec-fetch-mode", "navigate") == "navigate"  # by a link, say
        if headers.get("sec-fetch-site") == "cross-site" and not opened:
            return "a request of another web page"
        if self._token is None:
            return None
        for given in (_query_token(scope), _cookie_token(headers)):
            if given is not None and hmac.compare_digest(given.encode(), self._token.encode()):
                return None
        return (
            "the token is missing or wrong: open the address with ?token= that lmeec mark printed"
        )


def is_loopback(host: str) -> bool:
    """Whether a name or an address is always this machine's own."""
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


async def _refuse(reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # the handshake; closing it before it is accepted answers with 403
        await send({"type": "websocket.close", "code": 1008, "reason": reason[:100]})
        return
    await PlainTextResponse(f"refused: {reason}\n", 403)(scope, receive, send)
