"""Which files of the hub a reference means: from the hub, or from what its cache holds.

Knows names, sizes and hashes; nothing is downloaded here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from eftlite.errors import HubError
from eftlite.hub import cache, web
from eftlite.hub.reference import Reference, choose

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

MAIN = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NAME = re.compile(r"[^/\\:\x00-\x1f][^\\:\x00-\x1f]*")  # names become paths here, and the hub may be anybody's


@dataclass(frozen=True)
class File:
    """One file of a repository.

    Attributes:
        name: path inside the repository.
        n_bytes: its size.
        hash: its name in the cache: the SHA-256 of a large file, git's SHA-1 of a small one.
    """

    name: str
    n_bytes: int
    hash: str


@dataclass(frozen=True)
class Remote:
    """A model of the hub: one file, or all parts of a split one, in order.

    Attributes:
        repo: "org/repo" in the hub's spelling.
        revision: the branch, tag or commit that was asked for.
        commit: the commit it stands for.
    """

    repo: str
    revision: str
    commit: str
    files: tuple[File, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.n_bytes for file in self.files)

    @property
    def path(self) -> Path:
        """Where the first file is, or will be."""
        return cache.snapshot(self.repo, self.commit) / self.files[0].name

    @property
    def is_here(self) -> bool:
        """Whether the cache holds every file."""
        folder = cache.snapshot(self.repo, self.commit)
        return all(cache.size(folder / file.name) == file.n_bytes for file in self.files)


def locate(reference: Reference, live: bool = False) -> Remote:
    """The files a reference means, by the hub's word; by the cache's when the hub cannot be asked.

    Args:
        live: take the hub's word only.

    Raises:
        HubError: there is no such repository, revision or file, or the hub cannot be asked and nothing is cached.
    """
    try:
        return _ask(reference)
    except web.UnreachableError:
        found = None if live else find(reference)
        if found is None:
            raise
        return found


def find(reference: Reference) -> Remote | None:
    """What the cache holds of a reference, whole; None when the hub would have to be asked."""
    repo = cache.spelling(reference.repo)
    revision = reference.revision or MAIN
    commit = cache.commit(repo, revision)
    if commit is None:
        return None
    files = cache.files(repo, commit)
    try:
        names = choose(reference, files)
    except HubError:
        return None
    return Remote(repo, revision, commit, tuple(File(name, *files[name]) for name in names))


def _ask(reference: Reference) -> Remote:
    """The hub's word."""
    info = web.model_info(reference.repo, reference.revision)
    known = {file.name: file for file in map(_file, info.siblings or ()) if file is not None}
    names = choose(reference, known)
    if not _COMMIT.fullmatch(info.sha or ""):
        raise HubError(f"{reference.repo}: expected a commit from the hub, got {info.sha!s:.50}", "Check HF_ENDPOINT")
    # A repository that moved keeps the name it was asked by, so that the cache knows it by that.
    repo = info.id if info.id.lower() == reference.repo.lower() else reference.repo
    return Remote(repo, reference.revision or MAIN, str(info.sha), tuple(known[name] for name in names))


def _file(entry: RepoSibling) -> File | None:
    """A file as the hub lists it; None when its name or hash could not be one of a file here."""
    found = entry.lfs.sha256 if entry.lfs else entry.blob_id
    parts = PurePosixPath(entry.rfilename).parts
    if entry.size is None or not _HASH.fullmatch(found or "") or not _NAME.fullmatch(entry.rfilename) or ".." in parts:
        return None
    return File(entry.rfilename, entry.size, str(found))
