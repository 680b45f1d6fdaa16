"""The page for people, and the page of the endpoints; both work without any other host."""

import importlib.resources
import pathlib
import re

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

from jaxreid.pictures.results import assembled
from jaxreid.pictures.self_contained import csp_digest

FILE = pathlib.Path(__file__).with_name("page.html")
# With Swagger UI, which FastAPI would fetch from a CDN.
_ASSETS = importlib.resources.files(fastapi_offline) / "static"


def add_pages(app: FastAPI) -> None:
    """Add / and /docs."""
    text = assembled(FILE)
    policy = policy_of(text, img="data: blob:")
    about = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="jaxreid: endpoints",
        swagger_js_url="docs/swagger-ui.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="data:,",
    ).body.decode()
    # Swagger UI sets styles of elements.
    docs_policy = policy_of(about, img="data:", script="'self' ", style="'self' 'unsafe-inline'")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(text, headers={"content-security-policy": policy})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(about, headers={"content-security-policy": docs_policy})

    for name, kind in (("swagger-ui.js", "text/javascript"), ("swagger-ui.css", "text/css")):
        content = (_ASSETS / name.replace("ui.js", "ui-bundle.js")).read_bytes()
        _add_file(app, f"/docs/{name}", content, kind)


def policy_of(page: str, *, img: str, script: str = "", style: str = "") -> str:
    """Return a content security policy: the page's own script and style, and no other host."""
    scripts = " ".join(map(csp_digest, re.findall(r"<script>(.*?)</script>", page, re.DOTALL)))
    styles = " ".join(map(csp_digest, re.findall(r"<style>(.*?)</style>", page, re.DOTALL)))
    return (
        f"default-src 'none'; connect-src 'self'; img-src {img}; script-src {script}{scripts}; "
        f"style-src {style or styles}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _add_file(app: FastAPI, path: str, content: bytes, kind: str) -> None:
    async def file() -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "max-age=86400"})

    app.add_api_route(path, file, include_in_schema=False)
