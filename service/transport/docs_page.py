"""``GET /docs``: Swagger UI over the OpenAPI document, from files of an installed package, so that it works offline."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.transport import openapi

_ASSETS: Final = {
    "swagger-ui-bundle.js": "application/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_FOLDER: Final = files("fastapi_swagger.resources")


def add_docs_page(app: FastAPI) -> None:
    """The page and what it loads; relative addresses, so that it works behind a proxy's prefix too."""
    page = get_swagger_ui_html(
        openapi_url=f".{openapi.PATH}",
        title="Malgil",
        swagger_js_url="./docs/swagger-ui-bundle.js",
        swagger_css_url="./docs/swagger-ui.css",
        swagger_favicon_url="./docs/favicon-32x32.png",
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
    )

    async def docs(request: Request) -> Response:
        return page

    async def docs_asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _ASSETS:
            raise HTTPException(404)
        return Response(_FOLDER.joinpath(name).read_bytes(), media_type=_ASSETS[name])

    app.add_route("/docs", docs, methods=["GET"], include_in_schema=False)
    app.add_route("/docs/{name}", docs_asset, methods=["GET"], include_in_schema=False)
