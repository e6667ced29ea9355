"""Serves the page."""

from __future__ import annotations

import secrets
import socket
import warnings
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from nicegui import ui

from lmeec_core.errors import InputError
from lmeec_core.marking.drawing import picture
from lmeec_core.marking.guard import Guard, is_loopback
from lmeec_core.marking.page import MarkPage
from lmeec_core.marking.source import MarkSource
from lmeec_core.overlay import Colours


def serve(source: MarkSource, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    Args:
        source: the recording or node to mark objects in; closed at the end.
        host: the address to listen on. For any address but loopback, a token is created, and
            required from clients.
        port: 0: any free port.
        say: called with the page's URL.

    Raises:
        InputError: the address or port cannot be used.
    """
    listening = _bound(host, port)
    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # "any address" includes loopback
    address = f"http://{f'[{name}]' if ':' in name else name}:{listening.getsockname()[1]}/"
    say(address if token is None else f"{address}?token={token}")
    server = uvicorn.Server(uvicorn.Config(Guard(_application(source), token), log_level="warning"))
    # NiceGUI inspects every Python object to find its server, which triggers warnings in torch.
    warnings.filterwarnings("ignore", category=FutureWarning, module="nicegui")
    try:
        server.run([listening])
    except KeyboardInterrupt:  # uvicorn raises it again after shutting down
        pass
    finally:
        listening.close()
        source.close()


def _application(source: MarkSource) -> FastAPI:
    app = FastAPI(openapi_url=None)
    colours = Colours()

    @app.get("/view")
    def view(camera: str, frame: int, version: str) -> Response:
        """A camera's image with masks; ``version`` only makes the URL unique."""
        if camera not in source.cameras or (source.frames and frame not in source.frames):
            return Response(status_code=404)
        asked = frame if source.frames else None
        seen = source.view(camera, asked).seen
        data = picture(source.image(camera, asked), seen, colours)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    def page() -> None:
        MarkPage(source, colours).build()

    ui.run_with(app, root=page, title=f"lmeec mark: {source.title}", show_welcome_message=False)
    return app


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to an address.

    Raises:
        InputError: this machine has no such address, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()  # browsers can connect as soon as the URL is printed
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host {host} --port {port}: the page cannot be served there ({error}); an address "
            "of this machine and a free port expected (--port 0 takes any)"
        ) from error
    return bound
