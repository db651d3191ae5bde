"""A family's small models on a text that somebody else's base is evaluating.

The text comes as token ids, whole, before every token. What the caches hold of it stays; the rest is evaluated when
logits are asked for. So a prompt that begins like the last one, or a text that was cut, costs only what is new.

Knows members and token ids, and the base only by its vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from eftlite import hub
from eftlite.adapter import Adapter
from eftlite.composite import Roles
from eftlite.ensemble import Ensemble
from eftlite.errors import InputError
from eftlite.gguf import check as check_file
from eftlite.gguf_adapter import check_adapter
from eftlite.llama import Model
from eftlite.loading import Progress, Source, delta_sources, member_names, owner, place_family
from eftlite.member import CancelFlag, Member
from eftlite.overrides import with_tables
from eftlite.placement import check as check_placement
from eftlite.settings import Family, ModelSettings
from eftlite.vocab import Vocabulary, share

Ids = NDArray[np.int32]


class Follower:
    """Keeps an ensemble's slot 0 on a text that is given whole each time."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self._known: Ids = np.empty(0, np.int32)  # (n,) what the slot's text is

    def follow(self, text: Ids) -> None:
        """Make ``text`` (n,) the slot's text; nothing is evaluated yet.

        Raises:
            ContextError: it does not fit.
        """
        known, self._known = self._known, np.empty(0, np.int32)  # nothing is known if this fails half-way
        n = len(known)
        if 0 < n <= len(text) and np.array_equal(known, text[:n]):  # in C, for this comes with every token
            self._ensemble.settle(0, text[n:].tolist())
        else:
            self._ensemble.begin(0, [text.tolist()] * len(self._ensemble.members))
        self._known = text.copy()


class Companions(Follower):
    """The members that a family's deltas need, each model loaded once.

    Args:
        family: its base is not opened.
        base: the base's vocabulary, which all must share.
        n_ctx: tokens of context.
        settings: for all members; the family's own settings of a member go before.
        progress: called with a member's name and 0..1 while loading.

    Attributes:
        ensemble: the members. None of them is the base, so its ``roles.base`` means nothing.
        roles: with the base in front: member i of these is member i - 1 of the ensemble.
        speaker: the first tuned model.

    Raises:
        InputError: a family without a delta.
        HubError, MemoryLimitError, ModelFileError, VocabularyError, EngineError: as ``loading.load``; nothing stays
            loaded.
    """

    def __init__(
        self,
        family: Family,
        base: Vocabulary,
        n_ctx: int,
        settings: ModelSettings,
        progress: Progress | None = None,
    ) -> None:
        if not family.deltas:
            raise InputError("family: expected a delta, got a base alone", "Name tuned and reference")
        family = hub.localize(family, progress)
        pairs = [delta_sources(delta) for delta in family.deltas]
        names = {
            source: name for source, name in member_names(family).items() if source in {s for p in pairs for s in p}
        }
        order = list(names)
        indices = tuple((order.index(tuned), order.index(reference)) for tuned, reference in pairs)
        chosen = _placed(names, family, settings, n_ctx)
        with ExitStack() as undo:
            members = list(_opened(names, chosen, n_ctx, progress, undo))
            models = dict.fromkeys(member.model for member in members)
            shared = share([base, *(model.vocabulary() for model in models)])
            self.ensemble = Ensemble(members, Roles(len(members), 0, indices), shared)
            self._resources = undo.pop_all()
        super().__init__(self.ensemble)
        self.roles = Roles(len(members) + 1, 0, tuple((tuned + 1, reference + 1) for tuned, reference in indices))
        self.speaker = members[indices[0][0]].model

    def close(self) -> None:
        """Free contexts and weights."""
        self._resources.close()


def _placed(
    names: Mapping[Source, str], family: Family, settings: ModelSettings, n_ctx: int
) -> Mapping[str, ModelSettings]:
    """Each member's settings with nothing left to choose; MemoryLimitError when they do not fit."""
    tables = {member: fields for member, fields in family.settings.items() if member != "base"}
    wanted = with_tables(dict.fromkeys(names.values(), settings), tables)
    headers = {source.path: check_file(source.path) for source in names}
    placement = place_family(names, headers, wanted, n_ctx, 1)
    check_placement(placement)
    return placement.settings


def _opened(
    names: Mapping[Source, str],
    settings: Mapping[str, ModelSettings],
    n_ctx: int,
    progress: Progress | None,
    undo: ExitStack,
) -> Iterator[Member]:
    """The members on their models and adapters; ``undo`` closes them."""
    models: dict[str, Model] = {}
    for path in dict.fromkeys(source.path for source in names):
        name = owner(path, names)
        report = None if progress is None else lambda done, name=name: progress(name, done)
        models[path] = Model(path, settings[name], name, report)
        undo.callback(models[path].close)
    adapters = {  # all of them before the first context: llama.cpp sizes its graphs by them
        source: Adapter(source.adapter, models[source.path], name, check_adapter(source.adapter))
        for source, name in names.items()
        if source.adapter is not None
    }
    cancel = CancelFlag()
    for source, name in names.items():
        member = Member(models[source.path], n_ctx, 1, cancel, settings[name], name, adapters.get(source))
        undo.callback(member.close)
        yield member
