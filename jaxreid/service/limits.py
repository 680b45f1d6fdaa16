"""Limits of the service, and how a request beyond them is refused."""

import dataclasses

from starlette.exceptions import HTTPException


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one request, and of the number of concurrent ones.

    Attributes:
        body: bytes of a request.
        pixels: height times width of an image, checked before it is decoded.
        queries: photos of the person in a search.
        images: images of any other kind in one request.
        top: length of a ranked list.
        matches: hits of a search whose local matches are returned, and matches of each pair.
        requests: requests in progress; more are refused.
        waiting: images that wait to be embedded; more are refused.
        seconds: time from the first byte of a request to the last of its answer.
    """

    body: int = 32 * 2**20
    pixels: int = 16_000_000
    queries: int = 8
    images: int = 100
    top: int = 100
    matches: int = 24
    requests: int = 64
    waiting: int = 512
    seconds: float = 30.0


class Refused(HTTPException):
    """Request that is not answered, with the reason as a sentence."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(status, reason, {k.replace("_", "-"): v for k, v in headers.items()})
