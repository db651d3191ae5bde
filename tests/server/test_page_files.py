"""The page's files: what is served, how it is kept by browsers, and that nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette

from eftlite.server import page_files
from eftlite.server.replies import exception_handlers
from tests.server.wire import Reply, request

FILES = {
    "index.html": b"<!doctype html><title>eftlite</title>",
    "assets/page-1a2b.js": b"export {};",
    "assets/page-3c4d.css": b"body {}",
    "icon.svg": b"<svg/>",
    "fonts/text.woff2": b"wOF2",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A built page, beside it a secret."""
    for name, content in FILES.items():
        path = tmp_path / "static" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path / "static"


def app_of(folder: Path) -> Starlette:
    return Starlette(routes=page_files.routes(folder), exception_handlers=exception_handlers())


def ask(app: Starlette, path: str, method: str = "GET", **headers: str) -> Reply:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    # By this version the client's leaving shows in `send`; `request` seems to leave as soon as it has asked.
    return request(app, method, path, named, asgi={"version": "3.0", "spec_version": "2.4"})


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served(folder: Path, name: str) -> None:
    reply = ask(app_of(folder), f"/{name}")
    assert (reply.status, reply.body) == (200, FILES[name])


def test_the_root_is_the_page(folder: Path) -> None:
    assert ask(app_of(folder), "/").body == FILES["index.html"]


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/assets/page-1a2b.js", "text/javascript; charset=utf-8"),
        ("/assets/page-3c4d.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/fonts/text.woff2", "font/woff2"),
    ],
)
def test_types_do_not_depend_on_the_machine(
    folder: Path, path: str, media_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starlette.responses.guess_type", lambda *_: ("text/plain", None))  # as on some Windows
    assert ask(app_of(folder), path).headers["content-type"] == media_type


def test_a_file_that_did_not_change_is_not_sent_again(folder: Path) -> None:
    app = app_of(folder)
    first = ask(app, "/")
    assert first.headers["cache-control"] == "no-cache"
    again = ask(app, "/", if_none_match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert "content-type" not in again.headers
    (folder / "index.html").write_bytes(b"another page")
    changed = ask(app, "/", if_none_match=first.headers["etag"])
    assert (changed.status, changed.body) == (200, b"another page")


def test_head_tells_without_the_body(folder: Path) -> None:
    reply = ask(app_of(folder), "/", "HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["content-length"] == str(len(FILES["index.html"]))


OUTSIDE = [
    "/../secret.txt",
    "/assets/../../secret.txt",
    "/assets/..\\..\\secret.txt",
    "//etc/passwd",
    "/etc/passwd",
    "/./index.html",
    "/assets/",
    "/assets",
    "/INDEX.HTML",
    "/index.html\0",
    "/\0",
    "/C:/secret.txt",
    "/" + "a" * 5000,
    "/secret.txt",
    "/%2e%2e/secret.txt",
]


@pytest.mark.parametrize("path", OUTSIDE, ids=[path[:30] for path in OUTSIDE])
def test_nothing_else_is_served(folder: Path, path: str) -> None:
    reply = ask(app_of(folder), path)
    assert reply.status == 404
    assert reply.error["type"] == "not_found_error"


def test_a_link_out_of_the_folder_is_not_followed(folder: Path) -> None:
    try:
        (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
    except OSError:
        pytest.skip("no symbolic links here")
    reply = ask(app_of(folder), "/link.txt")
    assert reply.status == 404
    assert b"secret" not in reply.body.replace(b"link.txt", b"")


def test_files_cannot_be_written(folder: Path) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert ask(app_of(folder), "/index.html", method).status == 405


def test_a_page_that_was_not_built_is_told(tmp_path: Path) -> None:
    app = app_of(tmp_path / "nowhere")
    reply = ask(app, "/")
    assert reply.status == 404
    assert "npm" in reply.error["message"]
    assert str(tmp_path) not in reply.error["message"]


def test_a_file_that_vanished_is_not_there(folder: Path) -> None:
    app = app_of(folder)
    (folder / "icon.svg").unlink()
    assert ask(app, "/icon.svg").status == 404


def test_paths_of_the_page_are_known() -> None:
    """The guards let exactly these load without a key."""
    paths = [route.path for route in page_files.routes()]
    assert paths[0] == "/"
    assert len(set(paths)) == len(paths)
