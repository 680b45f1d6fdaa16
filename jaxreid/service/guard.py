"""Middleware of every request: access, limits of body and time, metrics, response headers."""

import asyncio
import hmac
import ipaddress
import time
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from jaxreid.service.limits import Limits, Refused
from jaxreid.service.metrics import Metrics

# Answered without a token: they hold nothing of the model, the index or the requests.
OPEN = ("/", "/health", "/docs", "/docs/swagger-ui.js", "/docs/swagger-ui.css", "/openapi.json")
# Answered however busy the service is.
_ALWAYS = ("/health", "/metrics")
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """ASGI middleware around the whole service.

    Args:
        app: the service.
        limits: limits of a request.
        metrics: where requests are counted.
        endpoints: paths with a figure of their own; all others are "other".
        token: expected bearer token; None if everybody on this machine may ask.
    """

    def __init__(
        self, app: Any, *, limits: Limits, metrics: Metrics, endpoints: set[str], token: str | None
    ) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._endpoints, self._token = endpoints, None if token is None else token.encode()
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                held = {name for name, _ in message["headers"]}
                new = ((k.encode(), v.encode()) for k, v in HEADERS.items())
                message["headers"] = [*message["headers"], *(h for h in new if h[0] not in held)]
            await send(message)

        self._count += 1
        self._metrics.in_progress.inc()
        try:
            try:
                self._check(scope)
                async with asyncio.timeout(self._limits.seconds):
                    await self._app(scope, self._counted(scope, receive), answer)
            except (Refused, TimeoutError) as error:
                if status:
                    raise
                refused = error if isinstance(error, Refused) else self._too_late()
                body = {"detail": refused.detail}
                refusal = JSONResponse(body, refused.status_code, refused.headers)
                await refusal(scope, receive, answer)
        finally:
            self._count -= 1
            self._metrics.in_progress.dec()
            path = scope["path"]
            endpoint = next((e for e in self._endpoints if _is(path, e)), "other")
            # 499: the client has gone.
            self._metrics.requests.labels(endpoint, str(status or 499)).inc()
            self._metrics.seconds.labels(endpoint).observe(time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin.decode("latin-1")).netloc != host:
            # A page of another site that is open in a browser on this machine.
            raise Refused(403, "the request comes from a page of another site.")
        if self._token is None:
            if not is_loopback(_name(host)):
                # Else a site could give its own name this machine's address.
                raise Refused(
                    403, f"the host {host[:80]!r} is not this machine; start with a token for it."
                )
        elif scope["path"] not in OPEN:
            authorization = headers.get(b"authorization", b"")
            scheme, _, token = authorization.partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
                raise Refused(
                    401,
                    "the token is missing or wrong; expected Authorization: Bearer TOKEN.",
                    WWW_Authenticate="Bearer",
                )
        if self._count > self._limits.requests and scope["path"] not in _ALWAYS:
            raise Refused(
                503,
                f"{self._limits.requests} requests are in progress already. Try again later.",
                Retry_After="1",
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self._limits.body:
            raise self._too_large()

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """Count the bytes of a body, which may come without its length."""
        count = 0

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self._limits.body:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> Refused:
        reason = f"the request is too large; expected at most {self._limits.body:,} bytes."
        return Refused(413, reason, Connection="close")

    def _too_late(self) -> Refused:
        seconds = f"{self._limits.seconds:g}"
        reason = f"not answered within {seconds} seconds; expected less work in a request."
        return Refused(504, reason, Connection="close")


def is_loopback(host: str) -> bool:
    """Return whether a name or an address stands for this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """Return the name of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is(path: str, endpoint: str) -> bool:
    return path == endpoint or (endpoint == "/index" and path.startswith("/index/"))
