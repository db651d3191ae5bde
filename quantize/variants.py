"""Types that recordings lack: the files are made from the originals, and recorded beside them.

Knows members, files and types, never rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from eftlite.composite import Recipe
from eftlite_quantize.names import FileType
from eftlite_quantize.produce import produce
from eftlite_quantize.record import Run, Variant, add
from eftlite_quantize.recorded import Index, load_index
from eftlite_quantize.replay import usual

MODELS = "models"


def playing(index: Index) -> tuple[str, ...]:
    """Members that count with the family's own knobs, the base first."""
    needed = Recipe.of(usual(index).knobs, index.roles).needed
    return tuple(name for position, name in enumerate(index.members) if position in needed)


def with_types(types: Sequence[FileType], run: Run) -> Index:
    """The folder's index once every member that counts has these types; what is missing is made, in FOLDER/models.

    Raises:
        InputError, ModelFileError, EngineError, EFTError: as ``produce`` and ``add``.
    """
    index = load_index(run.folder)
    made: list[Variant] = []
    for member in playing(index):
        there = {one.kind for one in index.members[member]}
        missing = [kind for kind in types if kind.name not in there]
        if missing:
            folder = run.folder / MODELS / member.replace(":", "-")
            source = index.members[member][0].path
            outcomes = produce(source, missing, folder=folder, threads=run.settings.n_threads, report=run.report)
            # llama.cpp may have fallen back to other types, after which the header would name the file
            made += [Variant(member, one.plan.path, one.plan.kind.name) for one in outcomes]
    return add(made, run) if made else index
