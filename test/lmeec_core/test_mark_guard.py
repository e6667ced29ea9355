"""Whom the page of `lmeec mark` answers: itself, on this machine or with a token."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest

pytest.importorskip("nicegui", reason="needs the extra [mark]")

from lmeec_core.errors import InputError
from lmeec_core.marking.guard import COOKIE, Guard, is_loopback
from lmeec_core.marking.serving import _bound

OWN = "127.0.0.1:8080"


async def page(scope: dict, receive: Any, send: Any) -> None:
    """An application that answers everything."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


def ask(
    headers: dict[str, str], kind: str = "http", token: str | None = None, query: str = ""
) -> Reply:
    """What the guarded application answers; a web socket that is opened has the status 101."""
    given = [(k.lower().encode(), v.encode()) for k, v in ({"Host": OWN} | headers).items()]
    scope = {
        "type": kind, "method": "GET", "path": "/", "query_string": query.encode(),
        "headers": given,
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> dict:
        return {"type": "websocket.connect" if kind == "websocket" else "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Guard(page, token)(scope, receive, send))
    if kind == "websocket":
        return Reply({"websocket.accept": 101, "websocket.close": 403}[sent[0]["type"]], {}, "")
    answered = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return Reply(sent[0]["status"], answered, sent[1]["body"].decode())


@pytest.mark.parametrize(
    ("headers", "answered"),
    [
        ({}, True),
        ({"Origin": f"http://{OWN}"}, True),
        ({"Host": "localhost:8080"}, True),
        ({"Host": "[::1]:8080", "Origin": "http://[::1]:8080"}, True),
        ({"Host": "lmeec.example:8080"}, False),  # DNS rebinding
        ({"Host": "lmeec.example:8080", "Origin": "http://lmeec.example:8080"}, False),
        ({"Host": "127.0.0.1.example"}, False),
        ({"Origin": "http://lmeec.example"}, False),
        ({"Origin": "http://127.0.0.1:8081"}, False),  # another program's page
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),  # a link to it
    ],
)
def test_on_this_machine(headers: dict[str, str], answered: bool) -> None:
    reply = ask(headers)
    assert reply.status == (200 if answered else 403)
    assert reply.text == "the page" or reply.text.startswith("refused: ")
    assert ask(headers, "websocket").status == (101 if answered else 403)


FOREIGN = {"Origin": "http://lmeec.example"}


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_on_other_addresses_with_a_token_only(kind: str) -> None:
    there = {"Host": "192.0.2.7:8080"}
    cookie = there | {"Cookie": f"a=b; {COOKIE}=secret"}
    good = 200 if kind == "http" else 101
    assert ask(there, kind, "secret").status == 403
    assert ask(there, kind, "secret", "token=guess").status == 403
    assert ask(there | {"Cookie": f"{COOKIE}=guess"}, kind, "secret").status == 403
    assert ask(there, kind, "secret", "token=secret").status == good
    assert ask(cookie, kind, "secret").status == good
    assert ask(cookie | FOREIGN, kind, "secret").status == 403
    assert ask(there | FOREIGN, kind, "secret", "token=secret").status == 403


def test_the_token_is_kept_in_a_cookie() -> None:
    kept = ask({}, token="secret", query="a=1&token=secret").headers["set-cookie"]
    assert kept.startswith(f"{COOKIE}=secret;") and "HttpOnly" in kept and "SameSite=Strict" in kept
    with_cookie = {"Cookie": f"{COOKIE}=secret"}
    assert "set-cookie" not in ask(with_cookie, token="secret", query="token=guess").headers
    assert "?token=" in ask({}, token="secret").text
    assert "set-cookie" not in ask({}, query="token=any").headers


def test_it_cannot_be_put_into_another_page() -> None:
    assert ask({}).headers["x-frame-options"] == "DENY"


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.7", "localhost.example", "")))


@pytest.mark.parametrize("host", ["192.0.2.7", "no such name"])
def test_an_address_that_is_not_this_machines(host: str) -> None:
    with pytest.raises(InputError, match=f"--host {host}.*an address of this machine"):
        _bound(host, 0)


def test_a_port_that_is_taken() -> None:
    taken = r"in use.*--port 0 takes any"
    with _bound("127.0.0.1", 0) as first, pytest.raises(InputError, match=taken):
        _bound("127.0.0.1", first.getsockname()[1])
