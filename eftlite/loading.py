"""A family's files -> models, members and the ensemble; a file named twice is loaded once.

Knows files and roles; never prompts or laws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from eftlite.composite import Composite, Roles
from eftlite.ensemble import Ensemble
from eftlite.errors import InputError, ModelFileError
from eftlite.llama import Model, supports_gpu
from eftlite.member import CancelFlag, Member
from eftlite.settings import Family, ModelSettings
from eftlite.vocab import SharedVocabulary, share

DEFAULT_N_CTX = 4096
MAX_CTX, MAX_SLOTS = 1 << 23, 256  # llama.cpp's own limit of sequences; their product is a 32-bit number
Progress = Callable[[str, float], None]


@dataclass
class Engine:
    """A loaded family, closed as one.

    Attributes:
        models: distinct models, in members' order.
        drafter: name of the member that was loaded for drafting; another name if it plays a role as well.
        first_tuned: index of the first delta's tuned model, or None for a base alone.
    """

    models: list[Model]
    ensemble: Ensemble
    composite: Composite
    shared: SharedVocabulary
    cancel: CancelFlag
    drafter: str | None = None

    @property
    def first_tuned(self) -> int | None:
        """The member whose template and vocabulary speak for the family, unless it is a base alone."""
        deltas = self.ensemble.roles.deltas
        return deltas[0][0] if deltas else None

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
        family: base and deltas, by path.
        n_ctx: tokens each slot holds; None takes what the models were trained for, 4096 at most; 0 all of it.
        n_slots: independent texts.
        settings: for all members, or by role: "base", "tuned", "reference", or a member's name.
        progress: called with a member's name and 0..1.
        drafter: path of one more model of the same vocabulary, which only drafts; a member's own path is allowed.

    Raises:
        InputError: a size out of range, or settings for a member that there is not.
        ModelFileError, VocabularyError, EngineError: as the parts do; nothing stays loaded.
    """
    _check_size("n_ctx", n_ctx or 0, 0, MAX_CTX)
    _check_size("n_slots", n_slots, 1, MAX_SLOTS)
    names = member_names(family)
    if drafter is not None:
        names.setdefault(_identity(drafter), "drafter")
    _check_roles(settings, names.values())
    roles = _roles(family, list(names))
    with ExitStack() as undo:
        models: list[Model] = []
        for path, name in names.items():
            report = None if progress is None else _report(progress, name)
            model = Model(path, _settings_of(settings, name), name, report)
            undo.callback(model.close)
            models.append(model)
        shared = share([model.vocabulary() for model in models])
        cancel = CancelFlag()
        size = _context(n_ctx, models)
        members: list[Member] = []
        for model in models:
            members.append(Member(model, size, n_slots, cancel))
            undo.callback(members[-1].close)
        ensemble = Ensemble(members, roles, shared, _side_by_side(models))
        undo.pop_all()
    composite = Composite(shared.n_vocab, shared.control, shared.masked)
    drafting = None if drafter is None else names[_identity(drafter)]
    return Engine(models, ensemble, composite, shared, cancel, drafting)


def member_names(family: Family) -> dict[str, str]:
    """Each distinct file of a family with the name its member goes by: base, tuned, reference, or tuned:NAME …"""
    names = {_identity(family.base): "base"}
    single = len(family.deltas) == 1
    for delta in family.deltas:
        for part, path in (("tuned", delta.tuned), ("reference", delta.reference)):
            taken = set(names.values())
            plain = single or part not in taken
            names.setdefault(_identity(path), part if plain else f"{part}:{delta.name}")
    return names


def _roles(family: Family, paths: list[str]) -> Roles:
    deltas = tuple((paths.index(_identity(d.tuned)), paths.index(_identity(d.reference))) for d in family.deltas)
    return Roles(len(paths), 0, deltas)


def _side_by_side(models: list[Model]) -> bool:
    """Whether members run on devices of their own, so that evaluating them at the same time gains.

    On one device they would only wait for each other: llama.cpp gives each the whole of it.
    """
    on_gpu = {model.settings.n_gpu_layers != 0 for model in models}
    gpus = {
        model.settings.main_gpu
        for model in models
        if model.settings.n_gpu_layers and model.settings.split_mode == "none"
    }
    return supports_gpu() and (len(on_gpu) > 1 or len(gpus) > 1)


def _identity(path: str) -> str:
    """The same file under different spellings is one model."""
    try:
        return str(Path(path).expanduser().resolve())
    except (OSError, RuntimeError) as error:  # a loop of links
        raise ModelFileError(f"{Path(path).name}: {error}") from None


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


def _context(n_ctx: int | None, models: list[Model]) -> int:
    trained = min(model.n_ctx_train for model in models)
    if n_ctx is None:
        return min(DEFAULT_N_CTX, trained)
    return n_ctx or trained


def _report(progress: Progress, name: str) -> Callable[[float], None]:
    return lambda done: progress(name, done)
