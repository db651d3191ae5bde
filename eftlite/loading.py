"""A family's files -> models, adapters, members and the ensemble; a file named twice is loaded once.

Knows files and roles; never prompts or laws.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from eftlite import hub
from eftlite.adapter import Adapter
from eftlite.composite import Composite, Roles
from eftlite.ensemble import Ensemble
from eftlite.errors import InputError, ModelFileError
from eftlite.gguf import Header
from eftlite.gguf import check as check_file
from eftlite.gguf_adapter import AdapterHeader, check_adapter, check_fit
from eftlite.llama import Model, library, supports_gpu
from eftlite.member import CancelFlag, Member
from eftlite.overrides import with_tables
from eftlite.placement import DEFAULT_N_CTX, Placement, place
from eftlite.placement import check as check_placement
from eftlite.remote import on_workers
from eftlite.settings import Delta, Family, ModelSettings
from eftlite.vocab import SharedVocabulary, share

__all__ = [
    "DEFAULT_N_CTX", "MAX_CTX", "MAX_SLOTS", "Engine", "Progress", "Source", "delta_sources", "load", "member_names",
    "owner", "place_family",
]  # fmt: skip  # reads across

log = logging.getLogger("eftlite.loading")
MAX_CTX, MAX_SLOTS = 1 << 23, 256  # llama.cpp's own limit of sequences; their product is a 32-bit number
Progress = Callable[[str, float], None]


class Source(NamedTuple):
    """What a member is made of: a model's file, and the LoRA adapter on it if there is one."""

    path: str
    adapter: str | None = None


@dataclass
class Engine:
    """A loaded family, closed as one.

    Attributes:
        models: distinct models, in the order of the members that first use them.
        placement: what was chosen for them, and what they were expected to take.
        drafter: name of the member that was loaded for drafting; another name if it plays a role as well.
        first_tuned: index of the first delta's tuned model, or None for a base alone.
    """

    models: list[Model]
    ensemble: Ensemble
    composite: Composite
    shared: SharedVocabulary
    cancel: CancelFlag
    placement: Placement
    drafter: str | None = None

    @property
    def first_tuned(self) -> int | None:
        """The member whose template and vocabulary speak for the family, unless it is a base alone."""
        deltas = self.ensemble.roles.deltas
        return deltas[0][0] if deltas else None

    @property
    def speaker(self) -> Model:
        """The model whose tokenizer and chat template speak for the family: the first tuned one's, or the base."""
        return self.ensemble.members[self.first_tuned or 0].model

    def close(self) -> None:
        """Free contexts, then weights."""
        self.ensemble.close()
        for model in self.models:
            model.close()


def load(
    family: Family,
    n_ctx: int | None,
    n_slots: int,
    settings: ModelSettings | Mapping[str, ModelSettings],
    progress: Progress | None = None,
    drafter: str | None = None,
) -> Engine:
    """Load every model of a family and put them on the same slots.

    Args:
        family: base and deltas, by path or reference of the hub; what is not here is downloaded.
        n_ctx: tokens each slot holds; None takes what the models were trained for, 4096 at most, or less where memory
            is short; 0 all that they were trained for.
        n_slots: independent texts.
        settings: for all members, or by role: "base", "tuned", "reference", or a member's name; the family's own
            settings of a member go before.
        progress: called with a member's name and 0..1.
        drafter: one more model of the same vocabulary, which only drafts; a member's own path is allowed.

    Raises:
        InputError: a size out of range, or settings for a member that there is not.
        MemoryLimitError: there is not enough memory; no model was opened.
        ModelFileError, VocabularyError, EngineError: as the parts do; nothing stays loaded.
    """
    _check_size("n_ctx", n_ctx or 0, 0, MAX_CTX)
    _check_size("n_slots", n_slots, 1, MAX_SLOTS)
    family = hub.localize(family, progress, lambda one, headers: check_fits(one, headers, settings, n_ctx, n_slots))
    names = member_names(family)
    if drafter is not None:
        drafter = hub.local_path(drafter, progress)
        names.setdefault(_source(drafter), "drafter")
    wanted = _wanted(settings, names.values(), family)
    headers = {path: check_file(path) for path in dict.fromkeys(source.path for source in names)}
    lora = _check_adapters(names, headers)
    placement = place_family(names, headers, _on_workers(wanted, family), n_ctx, n_slots)
    check_placement(placement)
    for note in placement.notes:
        log.warning("%s", note)
    chosen = placement.settings
    roles = _roles(family, list(names))
    with ExitStack() as undo:
        loaded: dict[str, Model] = {}
        for path, header in headers.items():
            name = owner(path, names)
            report = None if progress is None else _report(progress, name)
            loaded[path] = Model(path, chosen[name], name, report, header)
            undo.callback(loaded[path].close)
        models = list(loaded.values())
        shared = share([model.vocabulary() for model in models])
        adapters = {
            source: Adapter(header.path, loaded[source.path], names[source], header) for source, header in lora.items()
        }
        cancel = CancelFlag()
        size = placement.n_ctx
        members: list[Member] = []
        for source, name in names.items():
            adapter = adapters.get(source)
            members.append(Member(loaded[source.path], size, n_slots, cancel, chosen[name], name, adapter))
            undo.callback(members[-1].close)
        ensemble = Ensemble(members, roles, shared, _side_by_side(models))
        undo.pop_all()
    composite = Composite(shared.n_vocab, shared.control, shared.masked)
    drafting = None if drafter is None else names[_source(drafter)]
    return Engine(models, ensemble, composite, shared, cancel, placement, drafting)


def check_fits(
    family: Family,
    headers: Mapping[str, Header],
    settings: ModelSettings | Mapping[str, ModelSettings],
    n_ctx: int | None,
    n_slots: int,
) -> None:
    """Raise what ``load`` would for want of memory, before the models are here; arguments as for ``expected``.

    Raises:
        InputError, MemoryLimitError, ModelFileError: as ``load``.
    """
    check_placement(expected(family, headers, settings, n_ctx, n_slots))


def expected(
    family: Family,
    headers: Mapping[str, Header],
    settings: ModelSettings | Mapping[str, ModelSettings],
    n_ctx: int | None,
    n_slots: int,
) -> Placement:
    """How ``load`` will place a family, whether it fits or not.

    Args:
        family: as ``hub.preview`` gives it, with ``headers`` of its files by path.
        settings, n_ctx, n_slots: as for ``load``.

    Raises:
        InputError, ModelFileError: as ``load``.
    """
    names = member_names(family)
    known = {path: headers.get(path) or check_file(path) for path in dict.fromkeys(source.path for source in names)}
    wanted = _on_workers(_wanted(settings, names.values(), family), family)
    return place_family(names, known, wanted, n_ctx, n_slots)


def place_family(
    names: Mapping[Source, str],
    headers: Mapping[str, Header],
    settings: Mapping[str, ModelSettings],
    n_ctx: int | None,
    n_slots: int,
) -> Placement:
    """How the members fit into this machine's memory.

    Args:
        names: of the members.
        headers: of their files, by path.
        settings, n_ctx, n_slots: as for ``place``.

    Raises:
        ModelFileError: an adapter's file is not there.
        InputError: the limit that the user set cannot be read.
    """
    return place(
        {name: headers[source.path] for source, name in names.items()},
        {name: headers[source.path].file_bytes for source, name in names.items()},
        settings,
        n_ctx,
        n_slots,
        adapters={name: _size(source.adapter) for source, name in names.items() if source.adapter is not None},
    )


def member_names(family: Family) -> dict[Source, str]:
    """What each distinct member is made of, and the name it goes by: base, tuned, reference, or tuned:NAME …"""
    names = {_source(family.base, family.adapter): "base"}
    single = len(family.deltas) == 1
    for delta in family.deltas:
        for part, source in zip(("tuned", "reference"), delta_sources(delta), strict=True):
            taken = set(names.values())
            plain = single or part not in taken
            names.setdefault(source, part if plain else f"{part}:{delta.name}")
    return names


def delta_sources(delta: Delta) -> tuple[Source, Source]:
    """What a delta's tuned model and its reference are made of."""
    return _source(delta.tuned, delta.adapter), _source(delta.reference)


def _check_adapters(names: Iterable[Source], headers: Mapping[str, Header]) -> dict[Source, AdapterHeader]:
    """The headers of the members' adapters; one that does not fit is told before a model is opened."""
    found = {source: check_adapter(source.adapter) for source in names if source.adapter is not None}
    for source, header in found.items():
        check_fit(header, headers[source.path])
    return found


def _roles(family: Family, sources: list[Source]) -> Roles:
    pairs = (delta_sources(delta) for delta in family.deltas)
    return Roles(len(sources), 0, tuple((sources.index(tuned), sources.index(reference)) for tuned, reference in pairs))


def owner(path: str, names: Mapping[Source, str]) -> str:
    """The member that speaks for a file's weights: the one that has them as they are, or else the first."""
    return names.get(Source(path)) or next(name for source, name in names.items() if source.path == path)


def _side_by_side(models: list[Model]) -> bool:
    """Whether members run on devices of their own, so that evaluating them at the same time gains.

    On one device they would only wait for each other: llama.cpp gives each the whole of it.
    """
    on_gpu = {bool(model.settings.n_gpu_layers) for model in models}
    gpus = {
        model.settings.main_gpu
        for model in models
        if model.settings.n_gpu_layers and model.settings.split_mode == "none"
    }
    elsewhere = any(model.settings.devices for model in models)  # named ones, on other machines perhaps
    return (supports_gpu() or elsewhere) and (len(on_gpu) > 1 or len(gpus) > 1)


def _source(path: str, adapter: str | None = None) -> Source:
    """What a member is made of, by absolute paths."""
    return Source(_identity(path), None if adapter is None else _identity(adapter))


def _identity(path: str) -> str:
    """The same file under different spellings is one model."""
    try:
        given = Path(path).expanduser()
        found = given.resolve()
        # What a link of the hub's cache leads to is called by its hash; parts of a split model are found by name.
        return str(found if found.suffix == given.suffix else given.parent.resolve() / given.name)
    except (OSError, RuntimeError) as error:  # a loop of links
        raise ModelFileError(f"{Path(path).name}: {error}") from None


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise ModelFileError(f"{Path(path).name}: {error.strerror or error}") from None


def _check_size(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name}: expected an integer from {low} to {high}, got {value!r}")


def _check_roles(settings: ModelSettings | Mapping[str, ModelSettings], names: Iterable[str]) -> None:
    """Settings for nobody are a slip of the pen."""
    known = {part for name in names for part in (name, name.split(":", maxsplit=1)[0])}
    unknown = [] if isinstance(settings, ModelSettings) else sorted(set(settings) - known)
    if unknown:
        raise InputError(f"settings: expected {', '.join(sorted(known))}, got {unknown[0]!r}")


def _settings_of(settings: ModelSettings | Mapping[str, ModelSettings], name: str) -> ModelSettings:
    if isinstance(settings, ModelSettings):
        return settings
    return settings.get(name) or settings.get(name.split(":", maxsplit=1)[0]) or ModelSettings()


def _wanted(
    settings: ModelSettings | Mapping[str, ModelSettings], names: Iterable[str], family: Family
) -> dict[str, ModelSettings]:
    """Each member's settings, the family's own before those of the caller."""
    members = list(names)
    _check_roles(settings, members)
    return with_tables({name: _settings_of(settings, name) for name in members}, family.settings)


def _on_workers(settings: Mapping[str, ModelSettings], family: Family) -> Mapping[str, ModelSettings]:
    """Settings with the base on the family's workers; the small models stay here."""
    if not family.rpc:
        return settings
    library.open()  # what llama.cpp has to say of workers belongs into its log
    return {**settings, "base": on_workers(settings["base"], family.rpc)}


def _report(progress: Progress, name: str) -> Callable[[float], None]:
    return lambda done: progress(name, done)
