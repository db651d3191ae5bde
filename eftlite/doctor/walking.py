"""Answers walked through with every member's logits in view: EFT's own, and the tuned model's with their ends.

Tokens are drawn as users' are, with default sampling, from one seed; so figures come back. Knows a loaded engine; what
the figures mean is judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from eftlite.composite import Recipe, Row
from eftlite.errors import ContextError
from eftlite.loading import Engine
from eftlite.noise import Noise
from eftlite.sampling import Sampler
from eftlite.settings import Knobs, Sampling, Speculation
from eftlite.verify import EXPECTED_ACCEPTANCE, draw

SEED = 42
MIN_ROOM = 24  # tokens; fewer show nothing
UNWANTED = 0.01  # a token to which neither the base nor the tuned model gives even this


@dataclass(frozen=True)
class Answered:
    """An answer of EFT, token by token in comparison with its members; sums over its tokens.

    Attributes:
        ended: whether an end token came within the limit.
        tv_tuned, tv_base: of total variation distances to these models.
        changed_tuned, changed_base: tokens where EFT's likeliest is not theirs.
        unwanted: tokens where EFT's likeliest is one that neither would write.
        acceptance: of probabilities that a drafted token stands.
    """

    n_tokens: int
    ended: bool
    tv_tuned: float
    tv_base: float
    changed_tuned: int
    changed_base: int
    unwanted: int
    acceptance: float


@dataclass(frozen=True)
class Ended:
    """An answer of the tuned model alone, and what EFT thinks of its end.

    Attributes:
        ended: whether it ended within the limit.
        probability: that EFT ends the same text there too; 0 where it did not end.
        stray: control tokens that it wrote and went on after.
    """

    n_tokens: int
    ended: bool
    probability: float
    stray: tuple[str, ...]


class Walker:
    """Walks through answers with every member's logits in view.

    Attributes:
        recipe: of the family's knobs.
        tuned: the member that the first active delta tunes; None for a base alone.
    """

    def __init__(self, engine: Engine, knobs: Knobs) -> None:
        self._engine, roles = engine, engine.ensemble.roles
        self.recipe = Recipe.of(knobs, roles)
        first = roles.deltas[0][0] if roles.deltas else None
        self.tuned = first if self.recipe.tuned is None else self.recipe.tuned
        self._speaker = engine.speaker
        self._scores = np.empty(engine.ensemble.n_vocab, np.float32)  # (n_vocab,)

    def sampler(self) -> Sampler:
        """The default sampling, without memory of other texts."""
        return Sampler(Sampling(seed=SEED), self._speaker, self._engine.shared.n_vocab, SEED)

    def answer(self, prompt: Sequence[int], limit: int) -> Answered:
        """EFT's answer of at most ``limit`` tokens, each of which is compared with what the members would write."""
        assert self.tuned is not None
        engine, noise = self._engine, Noise(SEED)
        base = engine.ensemble.roles.base
        needed = sorted({*self.recipe.needed, base, self.tuned})
        found: list[tuple[float, float, int, int, int, float]] = []
        ended = False
        self._begin(prompt)
        with closing(self.sampler()) as sampler:
            while not ended and len(found) < limit and engine.ensemble.room(0) > 1:
                rows = engine.ensemble.rows(0, needed)
                scores = engine.composite.combine(rows, self.recipe, self._scores)
                law, drafts = sampler.law(scores), sampler.law(_of(rows, self.tuned))
                token = draw(law, noise, len(found))
                compared = self._compare(scores, _of(rows, self.tuned), _of(rows, base))
                found.append((*compared, EXPECTED_ACCEPTANCE[Speculation().rule](law, drafts)))
                ended = token in engine.shared.eog
                engine.ensemble.append(0, token)
        sums = [sum(values) for values in zip(*found, strict=True)]
        return Answered(len(found), ended, sums[0], sums[1], int(sums[2]), int(sums[3]), int(sums[4]), sums[5])

    def _compare(self, scores: Row, tuned: Row, base: Row) -> tuple[float, float, int, int, int]:
        """Total variation to tuned and base, and whether the likeliest token is not theirs, or nobody's."""
        composite = self._engine.composite
        normaliser = composite.log_normaliser(scores)
        best = int(scores.argmax())
        likeliest = max(float(row[best]) - composite.log_normaliser(row) for row in (tuned, base))
        return (
            composite.shift(scores, normaliser, tuned),
            composite.shift(scores, normaliser, base),
            int(best != int(tuned.argmax())),
            int(best != int(base.argmax())),
            int(likeliest < np.log(UNWANTED)),
        )

    def end(self, prompt: Sequence[int], limit: int) -> Ended:
        """The tuned model's own answer, and whether EFT would end it there."""
        assert self.tuned is not None
        engine, noise = self._engine, Noise(SEED)
        control, stray = {int(token) for token in engine.shared.control} - engine.shared.eog, []
        n_tokens, ended = 0, False
        self._begin(prompt)
        with closing(self.sampler()) as sampler:
            while not ended and n_tokens < limit and engine.ensemble.room(0) > 1:
                law = sampler.law(_of(engine.ensemble.rows(0, [self.tuned]), self.tuned))
                token = draw(law, noise, n_tokens)
                n_tokens, ended = n_tokens + 1, token in engine.shared.eog
                if token in control:
                    stray.append(self._speaker.piece(token, special=True).decode("utf-8", "replace"))
                if not ended:
                    engine.ensemble.append(0, token)
        return Ended(n_tokens, ended, self._end_probability() if ended else 0.0, tuple(dict.fromkeys(stray)))

    def _end_probability(self) -> float:
        """Of all end tokens together, under EFT, after the text as it stands."""
        engine = self._engine
        rows = engine.ensemble.rows(0, self.recipe.needed)
        scores = engine.composite.combine(rows, self.recipe, self._scores)
        ends = np.fromiter(engine.shared.eog, np.int64)  # (n_ends,)
        return float(np.exp(scores[ends].astype(np.float64) - engine.composite.log_normaliser(scores)).sum())

    def _begin(self, prompt: Sequence[int]) -> None:
        """Give every member the prompt; ContextError when no answer would fit after it."""
        ensemble = self._engine.ensemble
        ensemble.begin(0, [list(prompt)] * len(ensemble.members))
        if ensemble.room(0) < MIN_ROOM:
            raise ContextError(
                f"context: expected room for {MIN_ROOM} tokens after a question of {len(prompt)}, got {ensemble.n_ctx}",
                "Use a larger n_ctx",
                n_prompt=len(prompt),
                n_ctx=ensemble.n_ctx,
            )


def _of(rows: Sequence[Row | None], member: int) -> Row:
    row = rows[member]
    assert row is not None
    return row
