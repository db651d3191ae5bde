"""Stand-ins for llama.cpp and tools for looking inside: members whose logits are a pure function of the text,
drafters of every quality, families whose members resemble each other, and a judge of texts that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from eftlite.composite import Composite, Recipe, Roles, Row
from eftlite.drafting import Draft, Situation
from eftlite.eft import EFT
from eftlite.ensemble import Ensemble
from eftlite.errors import EngineError
from eftlite.events import TokenEvent
from eftlite.generate import Decoder
from eftlite.llama import Model
from eftlite.member import CancelFlag, Member
from eftlite.noise import Noise
from eftlite.sampling import Sampler
from eftlite.settings import Knobs, Limits, Sampling, Speculation
from eftlite.verify import Law, draw, draw_draft
from eftlite.vocab import SharedVocabulary
from tests.tiny_gguf import CHAT_TEMPLATE, write_model

GREEDY = Sampling(temperature=0.0, seed=0)
WHOLE: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}  # no filter: the law is the composite
PLAIN = Speculation(enabled=False)


# ---- members without llama.cpp


@cache
def fake_logits(seed: int, own: float, n_vocab: int, ids: tuple[int, ...]) -> NDArray[np.float32]:
    """(n_vocab,) float32 after these ids: what all members think of them, and ``own`` times what only this one does."""
    common, private = (np.random.default_rng([key, len(ids), *ids[-6:]]).normal(size=n_vocab) for key in (0, seed))
    return (2.0 * common + own * private).astype(np.float32)


class FakeMember:
    """A Member whose logits are a pure function of its text; every misuse of the cache fails at once.

    Rows are views into one buffer, and the next decode overwrites it, as llama.cpp's does.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        n_vocab: int = 24,
        n_ctx: int = 96,
        n_slots: int = 1,
        can_rewind: bool = True,
        own: float = 1.0,
        cancel: CancelFlag | None = None,
    ) -> None:
        self.name, self.seed, self.own = name, seed, own
        self.n_vocab, self.n_ctx, self.can_rewind = n_vocab, n_ctx, can_rewind
        self.cancel = cancel or CancelFlag()
        self.slots: list[list[int]] = [[] for _ in range(n_slots)]
        self.seconds = 0.0
        self.decoded: list[int] = []  # tokens of each decode
        self.fail: Callable[[int], Exception | None] = lambda n_tokens: None
        self._buffer = np.full((65, n_vocab), np.nan, np.float32)  # (65, n_vocab)
        self._rows: tuple[int, int, int] = (0, 0, 0)  # slot, tokens after which the first row stands, rows

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """(n_vocab,) float32, by definition."""
        return fake_logits(self.seed, self.own, self.n_vocab, tuple(ids))

    def decode(self, slot: int, ids: Sequence[int], n_rows: int = 1) -> None:
        held = self.slots[slot]
        assert ids, f"{self.name}: nothing to decode"
        assert n_rows <= len(ids), f"{self.name}: {n_rows} rows of {len(ids)} tokens"
        assert len(held) + len(ids) <= self.n_ctx, f"{self.name}: beyond its context"
        self._buffer[:] = np.nan
        self._rows = (slot, 0, 0)
        error = self.fail(len(ids))
        if error is not None:
            raise error
        self.decoded.append(len(ids))
        self.seconds += 0.001 * len(ids)
        held.extend(ids)
        for i in range(n_rows):
            self._buffer[i] = self.logits(held[: len(held) - n_rows + 1 + i])
        self._rows = (slot, len(held) - n_rows + 1, n_rows)

    def has_row(self, slot: int, n_tokens: int) -> bool:
        row_slot, first, n_rows = self._rows
        return row_slot == slot and first <= n_tokens < first + n_rows and n_tokens <= len(self.slots[slot])

    def row(self, slot: int, n_tokens: int) -> Row:
        if not self.has_row(slot, n_tokens):
            raise EngineError(f"{self.name}: no row after {n_tokens} tokens")
        view: Row = self._buffer[n_tokens - self._rows[1]]
        view.flags.writeable = False
        return view

    def rewind(self, slot: int, n_keep: int) -> int:
        held = self.slots[slot]
        if n_keep >= len(held):
            return len(held)
        kept = n_keep if self.can_rewind else 0
        del held[kept:]
        row_slot, first, n_rows = self._rows
        if row_slot == slot:
            self._rows = (slot, first, max(0, min(n_rows, kept - first + 1)))
        return kept

    def clear(self, slot: int) -> None:
        self.rewind(slot, 0)

    def validate(self, slot: int) -> None:
        """Nothing can differ from what it believes."""

    def close(self) -> None:
        self.slots = [[] for _ in self.slots]


ONE_DELTA = Roles(3, 0, ((1, 2),))


def fake_ensemble(
    n_members: int = 3,
    roles: Roles = ONE_DELTA,
    masked: Sequence[int] = (),
    control: Sequence[int] = (),
    eog: Sequence[int] = (),
    **options: Any,
) -> Ensemble:
    """An ensemble of fake members called base, tuned, reference …; ``options`` as in FakeMember."""
    cancel = CancelFlag()
    names = ("base", "tuned", "reference", "other", "outsider")
    members = [FakeMember(names[i], 100 + i, cancel=cancel, **options) for i in range(n_members)]
    shared = SharedVocabulary(
        n_vocab=members[0].n_vocab,
        masked=np.array(masked, np.int32),
        control=np.array(control, np.int32),
        eog=frozenset(eog),
        notes=(),
    )
    return Ensemble(cast("list[Member]", members), roles, shared)


def fakes(ensemble: Ensemble) -> list[FakeMember]:
    """The ensemble's members, as what they are."""
    return cast("list[FakeMember]", ensemble.members)


def fake_sampler(sampling: Sampling, n_vocab: int) -> Sampler:
    """A sampler for settings that read no vocabulary (no grammar, no DRY)."""
    return Sampler(sampling, cast("Model", SimpleNamespace(vocab=None, n_ctx_train=4096)), n_vocab)


def fake_piece(token: int) -> bytes:
    """Tokens are the letters from "a" on, in circles."""
    return bytes([97 + token % 26])


def fake_decoder(
    ensemble: Ensemble,
    prompt: Sequence[int] = (1, 2, 3),
    sampling: Sampling = GREEDY,
    limits: Limits | None = None,
    knobs: Knobs | Callable[[], Knobs] | None = None,
    noise: Any = None,
    slot: int = 0,
) -> Decoder:
    """A decoder that has begun ``prompt`` for every member; pieces are letters."""
    ensemble.begin(slot, [list(prompt)] * len(ensemble.members))
    knobs = Knobs((1.0,) * len(ensemble.roles.deltas)) if knobs is None else knobs
    fixed = knobs
    return Decoder(
        ensemble,
        Composite(ensemble.n_vocab, ensemble.shared.control, ensemble.shared.masked),
        slot,
        fixed if callable(fixed) else lambda: fixed,
        fake_sampler(sampling, ensemble.n_vocab),
        Noise(sampling.seed or 0) if noise is None else noise,
        Limits(12) if limits is None else limits,
        ensemble.shared.eog,
        fake_piece,
    )


# ---- drafters


class Proposer:
    """A drafter that runs no member: ``propose`` gives the law of the token after the slot's text and a draft."""

    member: int | None = None

    def __init__(self, ensemble: Ensemble, propose: Callable[[list[int]], Law]) -> None:
        self._ensemble, self._propose = ensemble, propose

    def draft(self, situation: Situation) -> Draft:
        text = self._ensemble.texts[situation.slot].answer
        draft = Draft()
        for i in range(situation.n):
            law = self._propose([*text, *draft.tokens])
            position = len(text) + i
            token = draw_draft(situation.rule, law, situation.noise, position, situation.round_index)
            draft.tokens.append(token)
            draft.proposals.append(law)
            if token in situation.end_tokens:
                break
        return draft

    def proposal_of(self, rows: Sequence[Row | None], sampler: Sampler) -> Law | None:
        return None


def certain(token: int) -> Law:
    """A law of one token."""
    return Law(np.array([token], np.int32), np.zeros(1))


def random_drafter(ensemble: Ensemble, seed: int = 0, n_candidates: int = 3) -> Proposer:
    """Laws over a few random tokens, a pure function of the answer so far."""

    def propose(answer: list[int]) -> Law:
        rng = np.random.default_rng([seed, *answer])
        ids = rng.choice(ensemble.n_vocab, n_candidates, replace=False).astype(np.int32)
        weights = rng.dirichlet(np.ones(n_candidates))
        return Law(ids, np.log(weights))

    return Proposer(ensemble, propose)


def oracle_drafter(ensemble: Ensemble, answer: Sequence[int], offset: int = 0) -> Proposer:
    """The answer's own tokens; with an offset never the right one."""

    def propose(sofar: list[int]) -> Law:
        right = answer[len(sofar)] if len(sofar) < len(answer) else 0
        return certain((right + offset) % ensemble.n_vocab)

    return Proposer(ensemble, propose)


def use_drafter(eft: EFT, name: str, drafter: Any) -> None:
    """Let ``Speculation(drafter=name)`` mean this drafter."""
    eft._planner._drafters[name, Speculation().max_draft] = drafter


# ---- families whose members resemble each other, so that drafts have something to hit


def close_family(folder: Path, seed: int = 1, noise: float = 0.08, **options: Any) -> dict[str, str]:
    """Three tiny models, each the same random weights with noise of its own; ``options`` as in write_model."""
    options = {"n_ctx": 256, **options}
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"base": 11, "tuned": 12, "reference": 13}
    return {
        part: str(
            write_model(
                folder / f"{part}.gguf", seed=seed, noise=noise, noise_seed=noise_seed, name=f"tiny {part}",
                chat_template=CHAT_TEMPLATE if part == "tuned" else None, **options,
            )
        )
        for part, noise_seed in parts.items()
    }  # fmt: skip  # one member a paragraph


def tiny_eft(folder: Path, speculative: bool | Speculation = False, seed: int = 1, **options: Any) -> EFT:
    """A close family, loaded on one thread: two stall each other on a busy machine."""
    files = close_family(folder, seed)
    return EFT(
        files["base"], files["tuned"], files["reference"], speculative=speculative, **{"n_threads": 1, **options}
    )


def ids_of(events: Iterator[TokenEvent] | Any) -> list[int]:
    """The token ids of an answer."""
    return [event.id for event in events if event.id >= 0]


# ---- llama.cpp watched, and made to fail


class Decodes:
    """What was handed to ``llama_decode``: the number of tokens of each call."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    @property
    def n_tokens(self) -> int:
        return sum(self.sizes)


@contextmanager
def watched_decodes() -> Iterator[Decodes]:
    """Count what goes into ``llama_decode``."""
    seen, real = Decodes(), llama_cpp.llama_decode

    def decode(context: Any, batch: Any) -> int:
        seen.sizes.append(batch.n_tokens)
        return int(real(context, batch))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_cpp, "llama_decode", decode)
        yield seen


@contextmanager
def failing_decode(at: int, code: int, really: bool = True) -> Iterator[None]:
    """Call number ``at`` (from 0) of ``llama_decode`` returns ``code``, after doing the work if ``really``."""
    n_calls, real = 0, llama_cpp.llama_decode

    def decode(context: Any, batch: Any) -> int:
        nonlocal n_calls
        n_calls += 1
        if n_calls - 1 != at:
            return int(real(context, batch))
        if really:
            real(context, batch)
        return code

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_cpp, "llama_decode", decode)
        yield


# ---- texts that differ


TIE = 1e-3  # in units of score + Gumbel; kernels of different batch sizes differ by less than this


@dataclass(frozen=True)
class Difference:
    """Where two texts of one seed part.

    Attributes:
        at: index of the first token that differs; tokens: both.
        margin: the smallest change of the difference of two scores that makes one token the other; inf when none below
            TIE was found, or when one text only ends earlier.
    """

    at: int
    tokens: tuple[int | None, int | None]
    margin: float


def first_difference(
    eft: EFT,
    prompts: Sequence[Sequence[int]],
    left: Sequence[int],
    right: Sequence[int],
    sampling: Sampling,
    knobs: Knobs | None = None,
) -> Difference | None:
    """Where two answers to the same prompts and seed part, and by how little; None when they are equal.

    The law at that position is made anew from one evaluation of prompt and common text; then the scores are disturbed
    at random, by 1e-6 first and by TIE at most, until the other token is drawn. This covers ties of score + Gumbel as
    well as tokens at the edge of a filter.
    """
    if list(left) == list(right):
        return None
    at = next((i for i, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        at = min(len(left), len(right))
        tokens = tuple(side[at] if at < len(side) else None for side in (left, right))
        return Difference(at, cast("tuple[int | None, int | None]", tokens), np.inf)
    pair = (left[at], right[at])
    scores = composite_scores(eft, [[*prompt, *left[:at]] for prompt in prompts], knobs or eft.knobs)
    sampler = Sampler(sampling, eft._speaker, eft.n_vocab)
    for token in left[:at]:
        sampler.accept(token)
    noise, rng = Noise(sampling.seed or 0), np.random.default_rng(0)
    for margin in (1e-6, 1e-5, 1e-4, 0.9 * TIE):
        signs = rng.choice(np.array([-0.5, 0.5], np.float32), (64, scores.size))  # (64, n_vocab) float32
        drawn = {draw(sampler.law(scores + np.float32(margin) * row), noise, at) for row in signs}
        if set(pair) <= drawn:
            return Difference(at, pair, margin)
    return Difference(at, pair, np.inf)


def composite_scores(eft: EFT, texts: Sequence[Sequence[int]], knobs: Knobs) -> Row:
    """(n_vocab,) float32 scores after each member's text, evaluated at once in slot 0."""
    engine = eft._engine
    recipe = Recipe.of(knobs, engine.ensemble.roles)
    engine.ensemble.clear(0)
    engine.ensemble.begin(0, texts)
    rows = engine.ensemble.rows(0, recipe.needed)
    return engine.composite.combine(rows, recipe, np.empty(eft.n_vocab, np.float32)).copy()


def assert_same_text(
    eft: EFT,
    prompts: Sequence[Sequence[int]],
    left: Sequence[int],
    right: Sequence[int],
    sampling: Sampling,
    knobs: Knobs | None = None,
) -> None:
    """Equal, or parted by a numerical tie, which is printed."""
    difference = first_difference(eft, prompts, left, right, sampling, knobs)
    if difference is not None:
        print(f"texts part at a tie: {difference}")
        assert difference.margin < TIE, f"{difference}: {left[: difference.at + 1]} and {right[: difference.at + 1]}"
