"""Whether and how an answer is drafted: drafter, rule and pace for the knobs at hand.

Knows a loaded engine; curves are measured when it is made, while all slots are empty.
"""

from __future__ import annotations

from collections.abc import Mapping

from eftlite.composite import Recipe
from eftlite.costs import CostCurve
from eftlite.drafters import DRAFTERS, make_drafter
from eftlite.drafting import Drafter
from eftlite.errors import InputError
from eftlite.generate import Decoder
from eftlite.loading import Engine
from eftlite.pace import Pace
from eftlite.places import cache_folder
from eftlite.sampling import Sampler
from eftlite.settings import Knobs, Sampling, Speculation
from eftlite.speculative import Acceptance, FixedPace, Rounds
from eftlite.speculative import Pace as AnyPace
from eftlite.timing import Report, costs, member_curve, row_seconds

AUTO = "auto"


class Planner:
    """Keeps drafters and their paces from answer to answer.

    Args:
        engine: just loaded.
        speculation: the family's default settings.
        report: told which member is being measured, the first time on a machine.
        curves: of every member, by name, in place of those of the user's cache folder.
    """

    def __init__(
        self,
        engine: Engine,
        speculation: Speculation,
        report: Report | None = None,
        curves: Mapping[str, CostCurve] | None = None,
    ) -> None:
        self._engine = engine
        self._drafters: dict[tuple[str, int], Drafter] = {}
        self._paces: dict[tuple[tuple[int, ...], str, str, int], Pace] = {}
        ensemble = engine.ensemble
        self._curves = dict(curves or {})
        self._row_s = (0.0, 0.0)
        if speculation.enabled and speculation.n_draft is None and ensemble.roles.deltas:
            path = cache_folder() / "curves.json"
            self._curves = self._curves or {m.name: member_curve(m, path, report) for m in ensemble.members}
            with_defaults = Sampler(Sampling(), engine.models[0], engine.shared.n_vocab)
            knobs = Knobs((1.0,) * len(ensemble.roles.deltas))
            self._row_s = row_seconds(engine.composite, ensemble, knobs, with_defaults)
            with_defaults.close()

    def rounds(self, decoder: Decoder, speculation: Speculation, acceptance: Acceptance | None = None) -> Rounds | None:
        """Rounds for this answer, or None when it is decoded plainly; the statistics say why.

        Args:
            acceptance: see ``Rounds``.
        """
        recipe = decoder.recipe
        why_not = self._obstacle(decoder, recipe, speculation)
        if why_not:
            decoder.statistics.speculation = f"off: {why_not}"
            return None
        name = self._drafter_name(recipe, speculation.drafter)
        most = min(max(speculation.max_draft, speculation.n_draft or 0), self._room)
        drafter = self._drafter(name, most)
        pace: AnyPace = (
            FixedPace(speculation.n_draft)
            if speculation.n_draft is not None
            else self._pace(recipe, name, drafter, speculation)
        )
        decoder.statistics.speculation = f"{name}, {speculation.rule}"
        return Rounds(decoder, drafter, speculation.rule, pace, most, acceptance)

    def _obstacle(self, decoder: Decoder, recipe: Recipe, speculation: Speculation) -> str:
        """Why this answer cannot be drafted; empty when it can."""
        if not speculation.enabled:
            return "switched off"
        if decoder.sampler.draws_itself:
            return "mirostat draws by itself"
        if speculation.drafter == AUTO and len(recipe.needed) == 1:
            return "one member answers alone"
        stuck = [member.name for member in self._engine.ensemble.members if not member.can_rewind]
        if stuck:
            return f"{stuck[0]} cannot drop a part of its memory"
        if not self._room:
            return "n_batch leaves no room for a draft"
        if speculation.n_draft is None and not self._curves:
            return "no cost curves were measured"
        return ""

    @property
    def _room(self) -> int:
        """The longest draft that every member can score in one batch, the pending token before it."""
        return min(member.max_rows for member in self._engine.ensemble.members) - 1

    def _drafter_name(self, recipe: Recipe, name: str) -> str:
        """``name`` with "auto" replaced by the tuned model of the strongest delta, or left out for a base alone."""
        deltas = self._engine.ensemble.roles.deltas
        if AUTO not in name.split("+"):
            return name
        if not deltas:
            return "+".join(part for part in name.split("+") if part != AUTO)
        alphas = recipe.knobs.alphas
        strongest = max(range(len(deltas)), key=lambda i: alphas[i])
        tuned = self._engine.ensemble.members[deltas[strongest][0]].name
        return "+".join(tuned if part == AUTO else part for part in name.split("+"))

    def _drafter(self, name: str, max_draft: int) -> Drafter:
        drafter = self._drafters.get((name, max_draft))
        if drafter is None:
            ensemble = self._engine.ensemble
            drafter = make_drafter(name, ensemble, self._engine.shared.masked, max_draft, self._unknown)
            self._drafters[name, max_draft] = drafter
        return drafter

    def _unknown(self, name: str) -> InputError:
        members = ", ".join(member.name for member in self._engine.ensemble.members)
        known = ", ".join(("auto", *DRAFTERS.built_in, *DRAFTERS.plugins()))
        return InputError(f"drafter: expected {known}, lookup+auto or a member ({members}), got {name!r}")

    def _pace(self, recipe: Recipe, name: str, drafter: Drafter, speculation: Speculation) -> Pace:
        key = (recipe.needed, name, speculation.rule, speculation.max_draft)
        pace = self._paces.get(key)
        if pace is None:
            member = drafter.member
            price = costs(self._engine.ensemble, recipe.needed, member, self._curves, self._row_s, speculation.rule)
            pace = self._paces[key] = Pace(price, speculation.max_draft)
        return pace
