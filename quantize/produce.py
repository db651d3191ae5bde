"""Quantized files of a model: several types in one call, each file whole or not there at all.

A file is written as NAME-TYPE.gguf.PID.part, looked at, sealed (records.py), brought to the disk and renamed. A file
that is there already and proves to be just that is kept. A run that is killed leaves a part behind, which the next one
removes; two runs at the same time do not touch each other's.

Not guaranteed: that the weights are good ones. Comparing is for that.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eftlite.errors import EngineError, InputError, ModelFileError
from eftlite.gguf import Header, check
from eftlite.gguf_types import shown
from eftlite.inspection import size
from eftlite_quantize.child import Child
from eftlite_quantize.names import FileType
from eftlite_quantize.newfile import NewFile, remove_abandoned
from eftlite_quantize.planning import Plan, make_plan, part_paths, target_path
from eftlite_quantize.recipe import Recipe
from eftlite_quantize.records import Record, file_hash, is_whole, record_of, seal

Report = Callable[[str, int, int], None]  # what is done, how far, of how much
MARGIN_BYTES = 1 << 20
_ELSEWHERE = "Choose another folder with -o"


@dataclass(frozen=True)
class Outcome:
    """One file.

    Attributes:
        state: "made", "kept" when it was there, "planned" in a dry run.
        n_bytes: of the file; estimated in a dry run.
        seconds: what making it took; None when it was not made.
    """

    plan: Plan
    state: str
    n_bytes: int
    seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Stable keys, values that JSON takes."""
        plan = self.plan
        return {
            "type": plan.kind.name,
            "file": plan.path.name,
            "state": self.state,
            "bytes": self.n_bytes,
            "bits_per_weight": round(plan.bits_per_weight, 4),
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "tensors": plan.type_counts(),
            "fallbacks": [vars(one) for one in plan.fallbacks],
        }


def produce(
    source: str | os.PathLike[str],
    types: Sequence[FileType],
    recipe: Recipe | None = None,
    folder: Path | None = None,
    *,
    threads: int = 0,
    force: bool = False,
    dry_run: bool = False,
    report: Report = lambda what, done, total: None,  # noqa: ARG005  # says nothing
) -> Generator[Outcome, None, None]:
    """Make files of several types.

    Args:
        source: a GGUF file with F32, F16 or BF16 weights; the first of a split model.
        recipe: how tensors are made; llama.cpp's own mixtures by default.
        folder: where the files go; beside the source by default.
        threads: 0 takes all.
        force: replace files that are there.
        dry_run: only say what would be made.
        report: called as it goes on.

    Yields:
        The files in the order of the types, each as soon as it is there.

    Raises:
        ModelFileError: the source is not a model.
        InputError: it cannot be made so, there is another file of that name, or there is too little room.
        EngineError: llama.cpp failed; what was finished before stays.
    """
    recipe = recipe or Recipe()
    header = check(source)
    recipe.check(header)
    folder = header.path.parent if folder is None else folder
    child = Child()
    try:
        plans = [make_plan(child, header, kind, recipe, target_path(header, kind, folder)) for kind in types]
        if dry_run:
            yield from (Outcome(plan, "planned", plan.n_bytes) for plan in plans)
            return
        _prepare(folder)
        _spare_source(header, plans)
        run = _Run(header, recipe, child, threads, report)
        kept = {plan.path: run.is_there(plan) for plan in plans if not force}
        _check_room(folder, [plan for plan in plans if not kept.get(plan.path)])
        for plan in plans:
            yield Outcome(plan, "kept", plan.path.stat().st_size) if kept.get(plan.path) else run.make(plan)
    finally:
        child.close()


class _Run:
    """Making files of one source."""

    def __init__(self, header: Header, recipe: Recipe, child: Child, threads: int, report: Report) -> None:
        self._header, self._recipe, self._child = header, recipe, child
        self._threads, self._report = threads, report
        self._paths = part_paths(header)
        self._stamps = self._look()
        done = 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            report(f"reading {header.path.name}", done, header.file_bytes)

        self._source = file_hash(*self._paths, advance=advance)

    def _look(self) -> list[tuple[int, int]]:
        """What changes when somebody writes into the source."""
        return [(found.st_size, found.st_mtime_ns) for found in (path.stat() for path in self._paths)]

    def _record(self, plan: Plan) -> Record:
        return Record(self._source, self._recipe.digest(plan.kind), self._child.build)

    def is_there(self, plan: Plan) -> bool:
        """Whether the file is there and just what would be made; False when it has to be made.

        Raises:
            InputError: there is another file of that name.
        """
        path, wanted = plan.path, self._record(plan)
        if not os.path.lexists(path):
            return False
        try:
            found = check(path)
        except ModelFileError:
            found = None
        record = record_of(found) if found else None
        if found is None or record is None or replace(record, build=wanted.build) != wanted:
            raise InputError(
                f"{path.name}: there is a file of that name, made from another source or in another way",
                "Replace it with --force, or choose another folder with -o",
            )
        self._report(f"checking {path.name}", 0, 1)
        return record == wanted and is_whole(found)

    def make(self, plan: Plan) -> Outcome:
        """Make a file."""
        began = time.monotonic()
        with NewFile(plan.path, hint=_ELSEWHERE) as new:
            try:
                self._quantize(plan, new.part)
            except BaseException:
                self._child.close()  # before the part can be removed
                raise
            self._finish(plan, new)
        return Outcome(plan, "made", plan.path.stat().st_size, time.monotonic() - began)

    def _quantize(self, plan: Plan, part: Path) -> None:
        job = self._recipe.job(self._header.path, plan.kind, part, self._threads, self._record(plan))
        try:
            for message in self._child.run(job):
                if "tensor" in message:
                    self._report(plan.kind.name, message["index"], message["count"])
        except EngineError as error:
            full = shutil.disk_usage(part.parent).free < MARGIN_BYTES or "iostream error" in error.message
            hint = "The disk is full, or the file may not grow" if full else ""
            raise EngineError(f"{plan.path.name}: llama.cpp could not make it: {error.message}", hint) from None

    def _finish(self, plan: Plan, new: NewFile) -> None:
        """Look at the file, seal it and give it its name."""
        try:
            header = check(new.part)
        except ModelFileError as error:
            raise EngineError(f"{plan.path.name}: llama.cpp wrote no whole file: {error.message}") from None
        if {one.name: one.type for one in header.tensors} != dict(plan.types):
            raise EngineError(f"{plan.path.name}: llama.cpp wrote other types than it had said")
        if self._look() != self._stamps:
            raise InputError(f"{self._header.path.name}: somebody changed it meanwhile", "Start again")
        with new.explained():
            seal(header)
        new.keep()


def _prepare(folder: Path) -> None:
    """Make the folder, and remove what killed runs have left in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder, "*.gguf")
    except OSError as error:
        message = f"-o: expected a folder that can be written, got {str(folder)!r}: {error.strerror}"
        raise InputError(message) from None


def _spare_source(header: Header, plans: Sequence[Plan]) -> None:
    """InputError when a file would take the source's place."""
    for path in (plan.path for plan in plans):
        if path.exists() and any(path.samefile(part) for part in part_paths(header)):
            raise InputError(f"{path.name}: expected another file than the source", _ELSEWHERE)


def _check_room(folder: Path, plans: Sequence[Plan]) -> None:
    """InputError when the files do not fit."""
    needed, free = sum(plan.n_bytes for plan in plans) + MARGIN_BYTES, shutil.disk_usage(folder).free
    if plans and free < needed:
        raise InputError(
            f"{shown(str(folder))}: expected {size(needed)} of free disk, got {size(free)}",
            "Choose another folder with -o, or fewer types",
        )
