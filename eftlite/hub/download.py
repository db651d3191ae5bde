"""Puts a model of the hub into its cache: every file whole and of the right hash, or not there at all.

huggingface_hub's own downloads check sizes only, and begin anew after the process was killed. These go on where they
ended, with what is there hashed again, and a file gets its name only when its hash is the one the hub published.
Two processes may fetch the same model at once: one waits for the other.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from eftlite.errors import HubError
from eftlite.hub import cache, stores, web
from eftlite.hub.listing import File, Remote

Progress = Callable[[str, int], None]
_PIECE = 1 << 20
_ROOM = "Make room (hf cache rm), or set HF_HOME to a folder on another disk"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fetch(remote: Remote, progress: Progress | None = None, verify: bool = False) -> Path:
    """Have a model here.

    Args:
        progress: called with a file's name and how many more of its bytes are here; fewer when it begins anew.
        verify: hash files that are here already; one that was damaged is fetched again.

    Returns:
        The path of the first file.

    Raises:
        HubError: refused, cut off, no room, or other bytes than the hub published; whole files are untouched.
    """
    report = progress or (lambda *_: None)
    if verify or not remote.is_here:
        check_room([remote])
        for file in remote.files:
            with _disk(file):
                _have(remote, file, report, verify)
    return remote.path


def check_room(remotes: Iterable[Remote]) -> None:
    """Refuse what the disk of the cache has no room for.

    Raises:
        HubError: with both sizes.
    """
    needed = sum({hash_: n for remote in remotes for hash_, n in _missing(remote)}.values())
    folder = cache.root().absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise HubError(f"cache of models: expected {needed:,} bytes of free disk, got {free:,}", _ROOM)


def _missing(remote: Remote) -> Iterator[tuple[str, int]]:
    """Files that are still to come: hash and bytes."""
    for file in remote.files:
        places = (_path(remote, file), cache.blob(remote.repo, file.hash), *_elsewhere(remote, file))
        if all(cache.size(place) != file.n_bytes for place in places):
            yield file.hash, max(file.n_bytes - (cache.size(cache.partial(remote.repo, file.hash)) or 0), 0)


def _path(remote: Remote, file: File) -> Path:
    return cache.snapshot(remote.repo, remote.commit) / file.name


def _elsewhere(remote: Remote, file: File) -> Iterator[Path]:
    """Files of other programs that may be this one."""
    candidates = stores.candidates(remote.repo, file.name, file.hash)
    return (path for path in candidates if cache.size(path) == file.n_bytes)


def _have(remote: Remote, file: File, progress: Progress, verify: bool) -> None:
    """Have one file under its name."""
    path, contents = _path(remote, file), cache.blob(remote.repo, file.hash)
    waiting = f"{file.name}: another process fetches it"
    with cache.lock(remote.repo, file.hash, on_wait=lambda: progress(waiting, 0)):
        if _is_sound(path, file, progress, verify):
            return
        if not _is_sound(contents, file, progress, verify):
            partial = cache.partial(remote.repo, file.hash)
            partial.parent.mkdir(parents=True, exist_ok=True)
            if not _adopt(partial, remote, file, progress):
                _download(partial, remote, file, progress)
            partial.replace(contents)
        cache.add(remote.repo, remote.commit, file.name, file.hash)
        cache.remember(remote.repo, remote.revision, remote.commit)


def _is_sound(path: Path, file: File, progress: Progress, verify: bool = True) -> bool:
    """Whether a file is there and of the right size and, on demand, hash."""
    if cache.size(path) != file.n_bytes:
        return False
    if not verify or not file.hash:  # the cache of a system without links does not know hashes
        progress(file.name, file.n_bytes)
        return True
    digest = _hasher(file)
    with path.open("rb") as handle:
        _feed(handle, digest, file, progress)
    if digest.hexdigest() != file.hash:
        progress(file.name, -file.n_bytes)
        return False
    return True


def _hasher(file: File) -> hashlib._Hash:
    """What computes the hash that the hub publishes."""
    if len(file.hash) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.n_bytes, usedforsecurity=False)  # git's name of a small file


def _feed(handle: BinaryIO, digest: hashlib._Hash, file: File, progress: Progress) -> int:
    """Hash the rest of an open file.

    Returns:
        Its bytes.
    """
    n_bytes = 0
    while piece := handle.read(_PIECE):
        digest.update(piece)
        n_bytes += len(piece)
        progress(file.name, len(piece))
    return n_bytes


def _adopt(partial: Path, remote: Remote, file: File, progress: Progress) -> bool:
    """Take the contents from another program's store: one more name for them on the same disk, else a copy."""
    found = next((path for path in _elsewhere(remote, file) if _is_sound(path, file, progress)), None)
    if found is None:
        return False
    partial.unlink(missing_ok=True)
    try:
        os.link(found.resolve(), partial)
    except OSError:  # another disk, or another user's file
        shutil.copyfile(found, partial)
    return True


def _download(partial: Path, remote: Remote, file: File, progress: Progress) -> None:
    """Complete what a former run left, or begin anew where that turns out to be damaged."""
    for is_resumed in (True, False) if cache.size(partial) else (False,):
        found = _grow(partial, remote, file, progress)
        if found == file.hash:
            return
        partial.unlink()
        progress(file.name, -file.n_bytes)
        if not is_resumed:
            message = f"{remote.repo}: {file.name}: expected the hash {file.hash[:12]}…, got {found[:12]}…"
            raise HubError(message, "It was changed on the way or on the hub, and was not kept; pull again")


def _grow(partial: Path, remote: Remote, file: File, progress: Progress) -> str:
    """Fetch the rest of a file.

    Returns:
        The hash of all of it.
    """
    partial.touch()
    with partial.open("r+b") as out:
        digest = _hasher(file)
        end = _feed(out, digest, file, progress)
        with closing(web.pieces(remote.repo, remote.commit, file.name, end, file.n_bytes)) as source:
            for position, piece in source:
                if position != end:  # a server that knows no ranges
                    progress(file.name, position - end)
                    digest = _hasher(file)
                    out.seek(position)
                own = piece[: file.n_bytes - position]
                out.write(own)
                digest.update(own)
                end = position + len(own)
                progress(file.name, len(own))
        out.flush()
        os.fsync(out.fileno())  # a name must not be on the disk before what it names
    return digest.hexdigest()


@contextmanager
def _disk(file: File) -> Iterator[None]:
    """Say in one line what the disk refused; what was written so far stays, to go on from."""
    try:
        yield
    except OSError as error:
        hint = _ROOM if error.errno in _NO_ROOM else "Look at the rights of the cache's folder (HF_HOME)"
        raise HubError(f"{file.name}: cannot be written: {error.strerror or error}", hint) from None
