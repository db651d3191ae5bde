"""The page's files at ``/``, from the package's own folder and from nowhere else.

The table of files is made once, when the routes are made: a request's path is looked up in it and never joined to a
folder, so no spelling of a path can lead outside. Knows nothing of what the files hold; the policy that a browser
obeys (CSP) is set for every answer by the guards.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from eftlite.errors import NotFoundError

if TYPE_CHECKING:
    import os

    from starlette.types import Scope

FOLDER = Path(__file__).with_name("page") / "static"
INDEX = "index.html"
# Named here because `mimetypes` reads the registry on Windows, where a wrong entry makes browsers refuse scripts.
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}


def routes(folder: Path = FOLDER) -> list[Route]:
    """One route for each file below ``folder``, and ``/`` for its index.html."""
    files = _PageFiles(directory=folder, check_dir=False)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [_route(files, "/", INDEX), *(_route(files, f"/{name}", name) for name in names)]


def _route(files: _PageFiles, path: str, name: str) -> Route:
    async def serve(request: Request) -> Response:
        return await files.get_response(name, request.scope)

    return Route(path, serve, name=f"page:{name}")


class _PageFiles(StaticFiles):
    """Files that a browser keeps but asks about each time: with an ETag that costs one short answer."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file; NotFoundError says how the page is built."""
        full_path, stat_result = self.lookup_path(path)
        if stat_result is None:
            raise NotFoundError(
                f"page: {path} is not there",
                "In a source checkout build the page first: npm ci && npm run build in eftlite/server/page",
            )
        return self.file_response(full_path, stat_result, scope)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """The file with our headers; 304 where the browser has it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        media_type = MEDIA_TYPES.get(Path(full_path).suffix)
        if media_type and response.status_code == status_code:
            response.headers["Content-Type"] = media_type
        return response
