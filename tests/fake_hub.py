"""A hub on loopback over real HTTP: listings, redirects to a store on another port, ranges, refusals.

Answers were written after huggingface_hub's own reading of them (hf_api.py, file_download.py, utils/_http.py). A
``FakeHub`` misbehaves on demand: cut connections, ranges ignored, other bytes, refusals, a slow line.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

TOKEN = "hf_" + "x" * 34
_PIECE = 1 << 14


@lru_cache(64)
def sha256(data: bytes) -> str:
    """The hash of a large file."""
    return hashlib.sha256(data).hexdigest()


@lru_cache(64)
def git_sha1(data: bytes) -> str:
    """git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repo:
    """A repository at one commit.

    Attributes:
        name: "org/repo" as its owner spells it.
        files: contents by path.
        small: paths that git keeps itself, not its extension for large files.
        gated: whether a token is wanted for the files, not for their list.
        revisions: names of the commit beside its own.
    """

    name: str
    files: dict[str, bytes]
    small: frozenset[str] = frozenset()
    gated: bool = False
    private: bool = False
    revisions: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        """The commit's name, of the contents."""
        listing = "".join(f"{name}{sha256(data)}" for name, data in sorted(self.files.items()))
        return hashlib.sha1((self.name + listing).encode()).hexdigest()

    def has(self, revision: str) -> bool:
        """Whether a revision names this commit."""
        return revision in (self.commit, *self.revisions)


@dataclass
class Misdeeds:
    """What goes wrong; the lists are used up from the front, one entry for each answer with contents.

    Attributes:
        cuts: bytes after which the connection breaks; None lets an answer pass.
        statuses: refusals instead of contents; 0 lets an answer pass.
        bodies: what is served instead of a file, by name.
        ignores_ranges: every answer is the whole file, with status 200.
        delay_s: pause before each 16 KiB.
        gate: contents wait for it.
        listing_status: the refusal of every listing.
        listing_body: what stands in place of every listing.
    """

    cuts: list[int | None] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)
    ignores_ranges: bool = False
    delay_s: float = 0.0
    gate: threading.Event | None = None
    listing_status: int = 0
    listing_body: bytes = b""


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    range: str | None
    token: str | None
    encoding: str | None
    is_store: bool


class _Server(ThreadingHTTPServer):
    """A server whose clients may go away."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Show what is wrong with the server itself."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # the base class says sockets


class FakeHub:
    """Repositories behind two ports: the hub's, and that of the store it redirects to."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.misdeeds = Misdeeds()
        self.seen: list[Seen] = []
        self.is_closed = False
        self._lock = threading.Lock()
        self._servers = [self._serve(is_store=False), self._serve(is_store=True)]
        self.url, self.store_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def _serve(self, is_store: bool) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self, "is_store": is_store})
        server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def close(self) -> None:
        """Answer nobody any more, not on open connections either."""
        self.is_closed = True
        if self.misdeeds.gate:
            self.misdeeds.gate.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(self, name: str, files: Mapping[str, bytes | Path], **about: Any) -> Repo:
        """Publish a repository."""
        contents = {path: data if isinstance(data, bytes) else data.read_bytes() for path, data in files.items()}
        self.repos[name.lower()] = repo = Repo(name, contents, **about)
        return repo

    def note(self, seen: Seen) -> None:
        """Remember a request."""
        with self._lock:
            self.seen.append(seen)

    def take(self, entries: list[Any], default: Any) -> Any:
        """The next entry of a list of misdeeds."""
        with self._lock:
            return entries.pop(0) if entries else default

    def listings(self) -> list[Seen]:
        """Requests for what repositories hold."""
        return [one for one in self.seen if one.path.startswith("/api/")]

    def byte_ranges(self) -> list[tuple[int, int]]:
        """First and last byte of each range of contents that was asked for, in order."""
        found = (re.fullmatch(r"bytes=(\d+)-(\d+)", one.range or "") for one in self.seen if one.is_store)
        return [(int(one[1]), int(one[2])) for one in found if one]


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub
    is_store: bool

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is the base class's
        """Nothing: the requests are kept in ``seen``."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.hub.is_closed:
            self.close_connection = True
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/api/agent-harnesses":  # the library's own question, once for each process
            self._refuse(404, "", "Not found")
            return
        asked, token, encoding = (self.headers.get(key) for key in ("Range", "Authorization", "Accept-Encoding"))
        self.hub.note(Seen(self.command, path, asked, token, encoding, self.is_store))
        try:
            if self.is_store:
                self._contents(path)
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
                self._listing(found[1], found[2], found[3])
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._resolve(found[1], found[2], found[3])
            else:
                self._refuse(404, "", "Not found")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    # ---- the hub

    def _listing(self, name: str, kind: str | None, revision: str | None) -> None:
        if self.hub.misdeeds.listing_status:
            self._refuse(self.hub.misdeeds.listing_status, "", "")
        elif self.hub.misdeeds.listing_body:
            self._head(200, len(self.hub.misdeeds.listing_body), {"Content-Type": "text/html"})
            self.wfile.write(self.hub.misdeeds.listing_body)
        elif repo := self._repo(name, revision or "main"):
            entries = [_entry(repo, path) for path in sorted(repo.files)]
            if kind == "tree":
                self._json([_tree_entry(entry) for entry in entries])
                return
            if "blobs" not in parse_qs(urlsplit(self.path).query):
                entries = [{"rfilename": entry["rfilename"]} for entry in entries]
            self._json({
                "_id": "0" * 24, "id": repo.name, "modelId": repo.name, "sha": repo.commit, "private": repo.private,
                "gated": "auto" if repo.gated else False, "disabled": False, "tags": ["gguf"], "siblings": entries,
            })  # fmt: skip

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._repo(name, revision)
        if repo is None:
            return
        if repo.gated and self._token != TOKEN:
            text = f"Access to model {repo.name} is restricted. You must have access to it and be authenticated."
            self._refuse(403 if self._token else 401, "GatedRepo", text)
        elif path not in repo.files:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repo.commit})
        elif path in repo.small:
            self._send(
                repo.files[path], path, {"X-Repo-Commit": repo.commit, "ETag": f'"{git_sha1(repo.files[path])}"'}
            )
        else:
            data = repo.files[path]
            location = f"{self.hub.store_url}/{quote(repo.name)}/{sha256(data)}/{quote(path)}?signature=secret"
            self._head(302, 0, {
                "Location": location, "X-Repo-Commit": repo.commit, "X-Linked-Etag": f'"{sha256(data)}"',
                "X-Linked-Size": str(len(data)), "ETag": '"of the redirect"', "Accept-Ranges": "bytes",
            })  # fmt: skip

    def _repo(self, name: str, revision: str) -> Repo | None:
        """The repository, or None after a refusal."""
        repo = self.hub.repos.get(name.lower())
        if self._token is not None and self._token != TOKEN:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and self._token is None):
            self._refuse(401 if self._token is None else 404, "RepoNotFound", "Repository not found")
        elif repo.name != name:
            self._head(307, 0, {"Location": self.path.replace(name, repo.name, 1)})
        elif not repo.has(revision):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    @property
    def _token(self) -> str | None:
        value = self.headers.get("Authorization")
        return value.removeprefix("Bearer ") if value else None

    # ---- the store

    def _contents(self, path: str) -> None:
        _, org, repo, _, name = path.split("/", 4)
        if self._token is not None:  # as S3 answers a signed address with a second authorisation
            self._refuse(400, "", "Only one auth mechanism allowed")
            return
        self._send(self.hub.repos[f"{org}/{repo}".lower()].files[name], name, {})

    def _send(self, data: bytes, name: str, headers: Mapping[str, str]) -> None:
        misdeeds = self.hub.misdeeds
        status = self.hub.take(misdeeds.statuses, 0)
        if status:
            self._refuse(status, "", f"No access to {self.hub.store_url}{self.path}")
            return
        data = misdeeds.bodies.get(name, data)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if found is None or misdeeds.ignores_ranges:
            self._head(200, len(data), {**headers, "Accept-Ranges": "bytes"})
            self._body(data)
            return
        start, end = int(found[1]), min(int(found[2] or len(data)) + 1, len(data))
        if start >= len(data):
            self._head(416, 0, {"Content-Range": f"bytes */{len(data)}"})
            return
        self._head(206, end - start, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})
        self._body(data[start:end])

    def _body(self, data: bytes) -> None:
        misdeeds = self.hub.misdeeds
        cut = self.hub.take(misdeeds.cuts, None)
        if self.command == "HEAD":
            return
        sent = data if cut is None else data[:cut]
        for i in range(0, len(sent), _PIECE):
            if misdeeds.gate:
                misdeeds.gate.wait(20)
            if misdeeds.delay_s:
                time.sleep(misdeeds.delay_s)
            self.wfile.write(sent[i : i + _PIECE])
        if cut is not None and cut < len(data):
            self.close_connection = True

    # ---- answers

    def _head(self, status: int, n_bytes: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(n_bytes), **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self._head(200, len(data), {"Content-Type": "application/json"})
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str, text: str, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps({"error": text}).encode() if text else b""
        named = {"X-Error-Code": code} if code else {}
        said = {"X-Error-Message": text} if text else {}
        self._head(status, len(data), {"Content-Type": "application/json", **named, **said, **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(data)


def _entry(repo: Repo, path: str) -> dict[str, Any]:
    """A file in the answer about a model."""
    data = repo.files[path]
    entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
    if path not in repo.small:
        entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 134}
    return entry


def _tree_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same file in the listing of a folder."""
    found = {"type": "file", "oid": entry["blobId"], "size": entry["size"], "path": entry["rfilename"]}
    if "lfs" in entry:
        found["lfs"] = {"oid": entry["lfs"]["sha256"], "size": entry["size"], "pointerSize": 134}
    return found


def environment(hub: FakeHub, home: Path) -> dict[str, str]:
    """Settings that send another process to this hub, with a cache of its own."""
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextmanager
def fake_hub(patch: pytest.MonkeyPatch, home: Path) -> Iterator[FakeHub]:
    """A hub that this process asks, with a cache below ``home``; pauses between attempts are short."""
    from huggingface_hub import constants
    from huggingface_hub.utils._http import close_session

    hub = FakeHub()
    # The library reads its environment once, when it is imported.
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 5)
    patch.setattr("eftlite.hub.web._PAUSE_S", 0.001)
    patch.setenv("HF_ENDPOINT", hub.url)
    patch.setenv("HOME", str(home))  # where other programs' stores would be
    patch.delenv("OLLAMA_MODELS", raising=False)
    try:
        yield hub
    finally:
        hub.close()
        close_session()
