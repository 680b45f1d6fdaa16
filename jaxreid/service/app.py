"""The service as an ASGI application: its endpoints, their arguments, and errors as sentences."""

import io
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, File, Form, Path, Request, Security, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

import jaxreid
from jaxreid.index.conditions import seconds
from jaxreid.service import answers, pages
from jaxreid.service.engine import Engine, notes_of
from jaxreid.service.guard import Guard
from jaxreid.service.limits import Refused
from jaxreid.service.photos import Photo

_LONGEST_TEXT = 100
_NO_INDEX = "the service has no index; start it with --index=INDEX, or send a gallery of images."
_READ_ONLY = "the index is read-only; start the service with --writable to change it."
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": answers.Problem, "description": text}
    for status, text in (
        (400, "Not a form"),
        (401, "Token missing or wrong"),
        (403, "From another site, or not allowed"),
        (413, "Too many bytes or pixels"),
        (415, "Not an image of a known type"),
        (422, "Argument or image not as expected"),
        (500, "Fault of the service"),
        (503, "Too many requests at once"),
        (504, "Not answered in time"),
    )
}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": answers.Problem, "description": "No index, or nothing of this id in it"}
}

Prior = Annotated[
    float | None, Form(gt=0, lt=1, description="probability of the same person before looking")
]
Text = Annotated[str | None, Form(max_length=_LONGEST_TEXT)]
Moment = Annotated[
    str | None, Form(max_length=_LONGEST_TEXT, description="seconds, or a date in ISO 8601")
]


def make_app(engine: Engine, *, token: str | None = None) -> Any:
    """Return the ASGI application of an engine.

    Args:
        engine: model and index.
        token: bearer token that requests must have; None for none.
    """
    limits = engine.limits
    some = {"min_length": 1, "max_length": limits.images}
    Images = Annotated[list[UploadFile], File(description="image files", **some)]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPI(
        title="jaxreid",
        version=jaxreid.__version__,
        summary="Find the same person across cameras that the model has never seen.",
        description="Images are cut out of frames: one person each. Scores order images for "
        "somebody who looks at them; they prove nothing about anybody.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=_PROBLEMS,
        dependencies=[Security(HTTPBearer(auto_error=False))] if token else [],
    )
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _fault)

    async def read(*groups: Sequence[UploadFile]) -> list[list[Photo]]:
        """Decode the files of a request, in one go."""
        files = [(await file.read(), file.filename) for group in groups for file in group]
        photos = iter(await engine.read(files))
        return [[next(photos) for _ in group] for group in groups]

    def index_needed(*, change: bool = False) -> None:
        if engine.index is None:
            raise Refused(404, _NO_INDEX)
        if change and not engine.writable:
            raise Refused(403, _READ_ONLY)

    @app.get("/health", summary="State of the service")
    async def health() -> answers.Health:
        return answers.Health(status="ok", version=jaxreid.__version__)

    @app.get("/model", summary="Model, calibration, index and limits")
    async def model() -> answers.About:
        reid = engine.reid
        size = None if engine.index is None else await engine.run(len, engine.index)
        names = answers.Bounds.model_fields
        return answers.About(
            model=reid.path.name if reid.path else "in memory",
            height=reid.model.height,
            width=reid.model.width,
            features=list(reid.feature_shape),
            matches=engine.local,
            calibrated_on=engine.calibrated_on,
            index=size,
            writable=engine.writable,
            limits=answers.Bounds(**{name: getattr(limits, name) for name in names}),
        )

    @app.post(
        "/embed",
        summary="Features of images",
        response_model=answers.Features,
        responses={200: {"content": {"application/octet-stream": {}}}},
    )
    async def embed(
        images: Images,
        format: Annotated[
            Literal["json", "npy"], Form(description="npy: float32 as NumPy writes it")
        ] = "json",
    ) -> Response:
        (photos,) = await read(images)
        features = await engine.features(photos)
        if format == "npy":
            np.save(file := io.BytesIO(), features, allow_pickle=False)
            return Response(file.getvalue(), media_type="application/octet-stream")
        return await engine.run(_features, photos, features)

    @app.post("/compare", summary="Score, probability and false-match rate of a pair")
    async def compare(
        a: Annotated[UploadFile, File(description="image file")],
        b: Annotated[UploadFile, File(description="image file")],
        prior: Prior = 0.5,
        matches: Annotated[int, Form(ge=0, le=limits.matches)] = min(12, limits.matches),
    ) -> answers.Comparison:
        photos = (await read([a, b]))[0]
        return answers.Comparison(**await engine.compare(*photos, prior or 0.5, matches))

    @app.post(
        "/search", summary="Find a person in a gallery, or in the index", responses=_NOT_FOUND
    )
    async def search(
        query: Annotated[
            list[UploadFile],
            File(description="photos of one person", min_length=1, max_length=limits.queries),
        ],
        gallery: Annotated[
            list[UploadFile],
            File(description="images to search; none for the index", max_length=limits.images),
        ] = [],  # noqa: B006
        top: Annotated[int, Form(ge=1, le=limits.top)] = min(10, limits.top),
        prior: Prior = None,
        matches: Annotated[
            int, Form(ge=0, le=limits.matches, description="hits whose matches are returned")
        ] = 0,
        camera: Annotated[
            list[Annotated[str, Field(max_length=_LONGEST_TEXT)]] | None,
            Form(description="of the index: these alone"),
        ] = None,
        after: Moment = None,
        before: Moment = None,
    ) -> answers.Found:
        if not gallery:
            index_needed()
        moments = {"after": moment_of(after, "after"), "before": moment_of(before, "before")}
        if gallery and (camera or after or before):
            raise Refused(422, "camera, after and before are of the index; omit them.")
        asked, held = await read(query, gallery)
        options: dict[str, Any] = {"top": top, "prior": prior, "matches": matches}
        if held:
            return answers.Found(**await engine.search(asked, held, **options))
        ranked = await engine.search_index(asked, **options, camera=camera or None, **moments)
        return answers.Found(**ranked)

    @app.get("/index", summary="Describe the index", responses=_NOT_FOUND)
    async def index_info() -> answers.IndexInfo:
        index_needed()
        info = await engine.run(engine.index.info)
        names = answers.IndexInfo.model_fields.keys() & info.keys()
        held = {name: info[name] for name in names}
        return answers.IndexInfo(**held, writable=engine.writable)

    @app.post("/index", summary="Add images to the index", responses=_NOT_FOUND)
    async def index_add(
        images: Images, camera: Text = None, time: Moment = None, person: Text = None
    ) -> answers.Added:
        index_needed(change=True)
        for name, text in (("camera", camera), ("person", person)):
            if text and not text.isprintable():
                raise Refused(422, f"{name}: expected one line of printable text.")
        metadata = {"camera": camera, "time": moment_of(time, "time"), "person": person}
        (photos,) = await read(images)
        return answers.Added(**await engine.add(photos, metadata))

    @app.delete("/index/{id}", summary="Remove an image from the index", responses=_NOT_FOUND)
    async def index_remove(
        id: Annotated[
            str, Path(pattern="^[0-9a-f]{32}$", description="as returned by /index and /search")
        ],
    ) -> answers.Removed:
        index_needed(change=True)
        removed = answers.Removed(**await engine.remove(id))
        if not removed.removed:
            raise Refused(404, f"the index has no image {id}.")
        return removed

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(engine.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    pages.add_pages(app)
    endpoints = {getattr(route, "path", "") for route in app.routes if "{" not in route.path}
    return Guard(app, limits=limits, metrics=engine.metrics, endpoints=endpoints, token=token)


def moment_of(text: str | None, name: str) -> float | None:
    """Return a time in seconds; a date without a zone is UTC. Raise `Refused` for other text."""
    if not text:
        return None
    try:
        return seconds(text)
    except (ValueError, OverflowError):
        raise Refused(
            422, f"{name} is {text!r}; expected seconds, or a date such as 2026-11-27T09:30:12."
        ) from None


def _features(photos: Sequence[Photo], features: np.ndarray) -> Response:
    body = {
        "names": [photo.name for photo in photos],
        "shape": list(features.shape),
        "features": features.tolist(),
        "notes": notes_of(photos),
    }
    return Response(json.dumps(body), media_type="application/json")


async def _refused(request: Request, error: Any) -> Response:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405:
        # Starlette names the methods of one route of this path alone.
        matching = (r for r in request.app.routes if r.matches(request.scope)[0] != Match.NONE)
        headers["allow"] = ", ".join(sorted({m for route in matching for m in route.methods}))
    return JSONResponse({"detail": str(error.detail)}, error.status_code, headers)


async def _invalid(request: Request, error: Any) -> Response:
    parts = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"][1:]) or "request"
        parts.append(f"{name}: {fault['msg']}")
    return JSONResponse({"detail": "; ".join(parts)}, 422)


async def _fault(request: Request, error: Exception) -> Response:
    # The log has the reason, which may hold places of this machine.
    return JSONResponse({"detail": "fault of the service; its log has the reason."}, 500)
