"""Which families there are: the bundled one, those that were added, and presets whose models are here.

A family that was added is a family file in ``llm``'s own folder, eftlite/NAME.toml: it can be edited, and deleted.
Presets of the user's own are always there; of eftlite's only those that need no download, since naming a model by
mistake would fetch gigabytes. No model is opened here and nothing asked of the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import llm

from eftlite.errors import EFTError
from eftlite.family import BUNDLED_NAME, bundled_family, load_family
from eftlite.hub.listing import find
from eftlite.hub.reference import parse
from eftlite.presets import Catalogue, references
from eftlite.settings import Family


@dataclass(frozen=True)
class Source:
    """A family by name.

    Attributes:
        origin: "bundled", "added" or "preset".
        family: None where it cannot be read.
        missing: its models that are not on this machine.
        error: why it cannot be read.
    """

    name: str
    origin: str
    family: Family | None = None
    missing: tuple[str, ...] = ()
    error: str = ""

    @property
    def model_id(self) -> str:
        """What ``llm -m`` takes."""
        return f"eftlite/{self.name}"


def folder() -> Path:
    """Where families that were added are kept."""
    return Path(llm.user_dir()) / "eftlite"  # type: ignore[no-untyped-call]  # llm annotates nothing here


def sources() -> list[Source]:
    """Every family there is, each name once: the bundled one, then what was added, then presets."""
    found: dict[str, Source] = {}
    for source in (Source(BUNDLED_NAME, "bundled", bundled_family()), *_added(), *_presets()):
        found.setdefault(source.name, source)
    return list(found.values())


def missing(family: Family) -> tuple[str, ...]:
    """The models a family needs that are not on this machine; the hub's references would be fetched."""
    return tuple(text for text in references(family) if text != family.real and not _is_here(text))


def _is_here(text: str) -> bool:
    reference = parse(text)
    return Path(text).exists() if reference is None else find(reference) is not None


def _added() -> Iterator[Source]:
    for path in sorted(folder().glob("*.toml")):
        try:
            family = load_family(path)
        except EFTError as error:  # noqa: PERF203  # a wrong file is listed, and the others stay
            yield Source(path.stem, "added", error=str(error))
        else:
            yield Source(path.stem, "added", family, missing(family))


def _presets() -> Iterator[Source]:
    catalogue = Catalogue()
    for name in catalogue.names:
        try:
            preset = catalogue.find(name)
        except EFTError as error:  # noqa: PERF203  # as above
            yield Source(name, "preset", error=str(error))
        else:
            lacking = missing(preset.pinned)
            if preset.source != "catalogue" or not lacking:
                yield Source(name, "preset", preset.pinned, lacking)
