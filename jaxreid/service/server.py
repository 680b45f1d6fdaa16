"""Running the service: its address, its token, and its stop."""

import dataclasses
import os
import pathlib
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn

from jaxreid.service.app import make_app
from jaxreid.service.engine import Engine
from jaxreid.service.guard import is_loopback

SHORTEST_TOKEN = 16
VARIABLE = "JAXREID_TOKEN"


@dataclasses.dataclass(frozen=True)
class Address:
    """Bound address that does not listen yet.

    Attributes:
        socket: its socket.
        url: for people.
    """

    socket: socket.socket
    url: str


def read_token(path: pathlib.Path | None) -> str | None:
    """Return the token from a file, or from the environment; None without.

    Raises:
        OSError, ValueError: it cannot be read, or is too short.
    """
    if path is not None:
        text, where = path.read_text(errors="replace"), str(path)
    elif (text := os.environ.get(VARIABLE, "")) == "":
        return None
    else:
        where = VARIABLE
    token = text.strip()
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise ValueError(
            f"the token in {where} has {len(token)} characters; expected at least "
            f"{SHORTEST_TOKEN} of ASCII, such as those of: openssl rand -hex 32"
        )
    return token


def bind(host: str, port: int, *, token: str | None) -> Address:
    """Bind an address; a port of 0 is any free one.

    Raises:
        ValueError: another machine could ask without a token.
        OSError: the address is in use or not of this machine.
    """
    if token is None and not is_loopback(host):
        raise ValueError(
            f"other machines could reach {host} without a token: set {VARIABLE} or "
            "--token-file, or use --host=127.0.0.1, which this machine alone can reach."
        )
    bound = None
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError as error:
        if bound is not None:
            bound.close()
        raise OSError(
            f"cannot bind {host}, port {port}: {error.strerror or error}; try another --port."
        ) from error
    name = f"[{host}]" if ":" in host else host
    return Address(bound, f"http://{name}:{bound.getsockname()[1]}")


def serve(engine: Engine, address: Address, *, token: str | None, ready: Callable[[], Any]) -> None:
    """Answer requests until SIGTERM or Ctrl-C; those in progress are finished first.

    Args:
        engine: model and index, compiled.
        address: result of `bind`.
        token: as for `make_app`.
        ready: called when requests are answered.
    """
    limits = engine.limits
    config = uvicorn.Config(
        make_app(engine, token=token),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(limits.seconds) + 1,
        # Those that wait for their turn are answered with a sentence; beyond that, without.
        limit_concurrency=4 * limits.requests,
        backlog=256,
    )
    server = _Server(config, ready)
    # uvicorn raises the signal again when it has stopped; by then, all is done.
    previous = {}
    if threading.current_thread() is threading.main_thread():
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        server.run(sockets=[address.socket])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], Any]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()
