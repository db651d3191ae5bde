"""The hub's cache on this machine, as huggingface_hub lays it out and other programs share it.

models--org--repo/blobs/HASH          contents; beside them HASH.eftlite.incomplete while one is fetched
models--org--repo/snapshots/COMMIT/…  links to them by the repository's names (the files themselves without links)
models--org--repo/refs/main           which commit a branch or tag was
.locks/models--org--repo/HASH.lock    held while a blob is written, by huggingface_hub too

Knows folders and links, never the network. https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_SOON_S = 0.5
_COMMIT = re.compile(r"[0-9a-f]{40}")


def root() -> Path:
    """The cache's folder: HF_HUB_CACHE, or hub/ below HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _folder_name(repo: str) -> str:
    return f"models--{repo.replace('/', '--')}"


def _folder(repo: str) -> Path:
    return root() / _folder_name(repo)


def spelling(repo: str) -> str:
    """The repository as it is spelt in the cache; case does not matter on the hub."""
    wanted = _folder_name(repo).lower()
    try:
        found = next((path.name for path in root().iterdir() if path.name.lower() == wanted), None)
    except OSError:
        return repo
    return found.removeprefix("models--").replace("--", "/", 1) if found else repo


def commit(repo: str, revision: str) -> str | None:
    """The commit that a branch, tag or commit was when it was last asked for."""
    if _COMMIT.fullmatch(revision):
        return revision
    try:
        found = (_folder(repo) / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return found if _COMMIT.fullmatch(found) else None


def snapshot(repo: str, commit: str) -> Path:
    """The folder of a commit's files."""
    return _folder(repo) / "snapshots" / commit


def files(repo: str, commit: str) -> dict[str, tuple[int, str]]:
    """The GGUF files of a commit that are here: sizes and hashes by name; an empty hash where links are not used."""
    folder = snapshot(repo, commit)
    found = {}
    for path in sorted(folder.rglob("*.gguf")):
        n_bytes = size(path)
        if n_bytes is not None:
            hash_ = path.readlink().name if path.is_symlink() else ""
            found[path.relative_to(folder).as_posix()] = (n_bytes, hash_)
    return found


def size(path: Path) -> int | None:
    """Bytes of a file, None where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def blob(repo: str, hash_: str) -> Path:
    """Where a file's contents are, or will be."""
    return _folder(repo) / "blobs" / hash_


def partial(repo: str, hash_: str) -> Path:
    """Where contents grow until they are whole."""
    return _folder(repo) / "blobs" / f"{hash_}.eftlite.incomplete"


@contextmanager
def lock(repo: str, hash_: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Keep other processes from writing these contents; ``on_wait`` is called when one of them is at it already."""
    from huggingface_hub.utils import WeakFileLock

    path = root() / ".locks" / _folder_name(repo) / f"{hash_}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(WeakFileLock(path, timeout=_SOON_S))
        except TimeoutError:
            on_wait()
            held.enter_context(WeakFileLock(path))
        yield


def add(repo: str, commit: str, name: str, hash_: str) -> Path:
    """Give whole contents their name in a commit.

    Returns:
        The file's path.
    """
    path, contents = snapshot(repo, commit) / name, blob(repo, hash_)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(os.path.relpath(contents, path.parent))
    except OSError:  # Windows without the right to make links
        contents.replace(path)
    return path


def remember(repo: str, revision: str, commit: str) -> None:
    """Note which commit a branch or tag is."""
    if revision != commit:
        path = _folder(repo) / "refs" / revision
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit, encoding="utf-8")
