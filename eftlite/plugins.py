"""Plugins: what other distributions bring through entry points, found, loaded and reported.

What eftlite has built in goes by the same form: a name that stands for "module:attribute". Built-in names win, and are
found without looking at what is installed. Nothing is imported before it is asked for. A plugin that cannot be used is
an error with its name where it was asked for, one warning where it was not, and stops nothing else.

Knows names and who brings them; what a drafter, a preset or a command must be, their owners know.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eftlite.errors import EFTError, InputError

if TYPE_CHECKING:
    from importlib.metadata import Distribution

GROUPS = {"drafter": "eftlite.drafters", "preset": "eftlite.presets", "command": "eftlite.commands"}
# What stays whole in a shell, in "DRAFTER+MEMBER" and in "PRESET:TYPE".
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Entry:
    """Something by its name.

    Attributes:
        kind: a key of GROUPS.
        value: "module:attribute", as in an entry point.
        summary: a line for people; a plugin's is its distribution's.
        distribution: who brings it; None for what is built in.
        version: the distribution's.
        problem: why it is not used although it is installed; empty where nothing is known against it.
    """

    kind: str
    name: str
    value: str
    summary: str = ""
    distribution: str | None = None
    version: str = ""
    problem: str = ""

    def load(self) -> Any:
        """The object, its module imported.

        Raises:
            InputError: a plugin cannot be imported.
        """
        from importlib.metadata import EntryPoint

        with self.blamed():
            return EntryPoint(self.name, self.value, GROUPS[self.kind]).load()

    @property
    def folder(self) -> Path:
        """Where its module is, once it was loaded: files that it names are meant from there."""
        file = getattr(sys.modules.get(self.value.partition(":")[0]), "__file__", None)
        return Path(file).parent if file else Path()

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """What a plugin raises inside becomes an InputError with its name; eftlite's own bugs stay what they are."""
        try:
            yield
        except (Exception, SystemExit) as error:
            if self.distribution is None:
                raise
            raise self.fault(
                str(error) if isinstance(error, EFTError) else f"{type(error).__name__}: {error}"
            ) from error

    def __str__(self) -> str:
        return f"plugin {self.distribution} {self.version}: {self.kind} {self.name}"

    def fault(self, what: str) -> InputError:
        """The error that says what is wrong with a plugin, on one line."""
        hint = f"eftlite plugins list shows all; pip uninstall {self.distribution} removes it"
        return InputError(f"{self}: {' '.join(what.split())}", hint)


class Registry:
    """All of one kind by name: what is built in, then plugins.

    Args:
        kind: a key of GROUPS.
        built_in: where each is, and a line for people.
        reserved: names that have another meaning where these are named.
    """

    def __init__(self, kind: str, built_in: Mapping[str, tuple[str, str]], reserved: Collection[str] = ()) -> None:
        self.kind = kind
        self.built_in = {name: Entry(kind, name, value, summary) for name, (value, summary) in built_in.items()}
        self._reserved = reserved

    def find(self, name: str) -> Entry | None:
        """What goes by a name."""
        return self.built_in.get(name) or self.plugins().get(name)

    def plugins(self) -> dict[str, Entry]:
        """Plugins that may be used, by name; the others are reported."""
        for entry in self.installed():
            if entry.problem:
                report(str(entry.fault(entry.problem)))
        return {entry.name: entry for entry in self.installed() if not entry.problem}

    def installed(self) -> list[Entry]:
        """Every plugin of this kind by name, with what is known against it; none is imported."""
        taken = {**dict.fromkeys(self._reserved, "eftlite"), **dict.fromkeys(self.built_in, "eftlite")}
        found = []
        for entry in installed():
            if entry.kind == self.kind:
                owner = taken.setdefault(entry.name, str(entry.distribution))
                found.append(replace(entry, problem=_problem(entry, owner)))
        return found


def _problem(entry: Entry, owner: str) -> str:
    if not _NAME.fullmatch(entry.name):
        return "expected a name of letters, digits, '.', '_' and '-'"
    return "" if owner == entry.distribution else f"the name is taken by {owner}"


@cache
def installed() -> tuple[Entry, ...]:
    """Every plugin of every kind, sorted; read once, without importing any."""
    from importlib import metadata  # slow to import, and not needed for what is built in

    found: dict[str, list[Entry]] = {}
    for distribution in metadata.distributions():
        entries = _entries(distribution)
        if entries:  # the first of a name is the one that Python imports
            found.setdefault(re.sub(r"[-_.]+", "-", str(entries[0].distribution)).lower(), entries)
    everything = [entry for entries in found.values() for entry in entries]
    return tuple(sorted(everything, key=lambda entry: (entry.kind, entry.name, str(entry.distribution))))


def _entries(distribution: Distribution) -> list[Entry]:
    """What a distribution brings."""
    try:
        declared = distribution.read_text("entry_points.txt") or ""
    except (OSError, ValueError):  # nobody can say whose it is
        return []
    if "eftlite." not in declared:
        return []
    kinds, name = {group: kind for kind, group in GROUPS.items()}, "?"
    try:
        about = distribution.metadata
        name, version, summary = (str(about[key] or "") for key in ("Name", "Version", "Summary"))
        points = [point for point in distribution.entry_points if point.group in kinds]
    except Exception as error:  # noqa: BLE001  # a damaged installation is no reason for any command to fail
        report(f"plugin {name}: its description cannot be read: {type(error).__name__}: {error}")
        return []
    return [Entry(kinds[point.group], point.name, point.value, summary, name, version) for point in points]


@cache
def report(text: str) -> None:
    """Warn, once of each text."""
    import logging  # for `--help`, which rarely has anything to report

    logging.getLogger("eftlite.plugins").warning("%s", text)
