"""Families whose members are references of the hub: what they need, and the same family with paths of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eftlite import gguf
from eftlite.hub.download import check_room, fetch
from eftlite.hub.headers import header
from eftlite.hub.listing import Remote, find, locate
from eftlite.hub.reference import Reference, parse
from eftlite.settings import Family

Progress = Callable[[str, float], None]
Plan = Callable[[Family, Mapping[str, gguf.Header]], None]


def references(family: Family) -> dict[str, Reference]:
    """The hub's references among a family's members and adapters, by their text; ``real`` is never loaded, nor here."""
    named = [family.base, family.adapter]
    for delta in family.deltas:
        named += [delta.tuned, delta.reference, delta.adapter]
    parsed = {text: parse(text) for text in named if text}
    return {text: reference for text, reference in parsed.items() if reference is not None}


def header_of(text: str) -> gguf.Header:
    """The header of a model by path or reference; one on the hub is not downloaded for it.

    Raises:
        HubError, ModelFileError: it cannot be had, or is no model of GGUF's.
    """
    reference = parse(text)
    return gguf.check(text, require_weights=False) if reference is None else header(_resolve(reference))


def localize(family: Family, progress: Progress | None = None, plan: Plan | None = None) -> Family:
    """The family with a path of this machine for every reference; what is missing is downloaded.

    Models that are here are not asked for again, unless a reference leaves open which file it means.

    Args:
        progress: called with what is being fetched and 0..1 of all of it.
        plan: called with a ``preview`` before models are downloaded, and only then; it raises what forbids it.

    Raises:
        HubError: a model cannot be had.
    """
    remotes = {text: _resolve(reference) for text, reference in references(family).items()}
    if not remotes:
        return family
    missing = {remote.path: remote for remote in remotes.values() if not remote.is_here}
    check_room(missing.values())
    if missing and plan is not None:
        plan(*preview(family, remotes))
    report = _Share(progress, sum(remote.n_bytes for remote in missing.values()))
    return family.renamed({text: str(fetch(remote, report)) for text, remote in remotes.items()})


def preview(family: Family, remotes: Mapping[str, Remote] | None = None) -> tuple[Family, dict[str, gguf.Header]]:
    """A family before its models are here: with files of their headers alone, and these headers by those paths.

    Adapters are small, and fetched.

    Args:
        remotes: what the family's references mean, by their texts, where that is known.

    Raises:
        HubError, ModelFileError: a header cannot be had, or is none of a model's.
    """
    if remotes is None:
        remotes = {text: _resolve(reference) for text, reference in references(family).items()}
    adapters = {family.adapter, *(delta.adapter for delta in family.deltas)}
    paths = {text: str(fetch(remote)) for text, remote in remotes.items() if text in adapters}
    headers = {}
    for text in [text for text in remotes if text not in adapters]:
        found = header(remotes[text])
        # As loading spells the paths of members.
        paths[text] = str(found.path.parent.resolve() / found.path.name)
        headers[paths[text]] = found
    return family.renamed(paths), headers


def local_path(text: str, progress: Progress | None = None) -> str:
    """The path of one model or adapter by path or reference, fetched if it is not here.

    Raises:
        HubError: it cannot be had.
    """
    return localize(Family(text, text), progress).base


def _resolve(reference: Reference) -> Remote:
    """What a reference means, by the cache where that is certain."""
    certain = reference.quant is not None or reference.file is not None
    return (find(reference) if certain else None) or locate(reference)


class _Share:
    """Turns bytes of files into a share of all bytes."""

    def __init__(self, progress: Progress | None, n_bytes: int) -> None:
        self._progress = progress
        self._n_bytes = n_bytes
        self._done = 0

    def __call__(self, name: str, n_bytes: int) -> None:
        """More bytes are here."""
        self._done += n_bytes
        if self._progress is not None:
            share = min(self._done / max(self._n_bytes, 1), 1.0)
            self._progress(f"fetching {name}, {share:.0%}", share)
