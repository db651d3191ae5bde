"""Speculative rounds. With members that are a pure function of the text there are no numerical ties: under ``gumbel``
the text must be the plain one's to the last token, under every rule the law must be the plain one's to 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from eftlite.drafting import Draft, Drafter, Fallback, LookupDrafter, MemberDrafter, Situation
from eftlite.ensemble import Ensemble
from eftlite.errors import CacheFullError, Cancelled, EngineError
from eftlite.events import TokenEvent
from eftlite.generate import Decoder, plain
from eftlite.pace import Pace as RealPace
from eftlite.settings import RULES, Knobs, Limits, Sampling, Speculation
from eftlite.speculative import FixedPace, Rounds, speculative
from eftlite.verify import Law, coincidence, overlap
from tests import naive
from tests.exact import ExactNoise, error, leaves
from tests.fakes import (
    GREEDY,
    PLAIN,
    WHOLE,
    assert_same_text,
    fake_decoder,
    fake_ensemble,
    fake_sampler,
    fakes,
    ids_of,
    oracle_drafter,
    random_drafter,
    tiny_eft,
    use_drafter,
)

PROMPT = [1, 2, 3]
NO_MASK = np.zeros(0, np.int32)
HOT = Sampling(temperature=1.0, seed=5, **WHOLE)
SAMPLINGS = {
    "greedy": GREEDY,
    "whole": HOT,
    "defaults": Sampling(seed=6),
    "penalties": Sampling(temperature=0.9, seed=7, repeat_penalty=1.3, frequency_penalty=0.5, penalty_last_n=5),
    "frequency": Sampling(temperature=0.9, seed=8, frequency_penalty=0.5, presence_penalty=0.2, penalty_last_n=5),
    "greedy with penalties": Sampling(temperature=0.0, seed=0, presence_penalty=1.0),
}
N = 24  # tokens of an answer


def plain_ids(sampling: Sampling = HOT, limits: Limits | None = None, **options: object) -> list[int]:
    """The plain loop's tokens."""
    ensemble = fake_ensemble(**options)  # type: ignore[arg-type]  # as named there
    return ids_of(plain(fake_decoder(ensemble, PROMPT, sampling, limits or Limits(N))))


def drafters(ensemble: Ensemble, right: Sequence[int]) -> dict[str, Drafter]:
    """Every kind, good and bad."""
    masked = ensemble.shared.masked
    tuned = MemberDrafter(ensemble, 1, masked, 16)
    return {
        "tuned": tuned,
        "base": MemberDrafter(ensemble, 0, masked, 16),
        "lookup": LookupDrafter(ensemble),
        "lookup, then tuned": Fallback(LookupDrafter(ensemble), tuned),
        "random": random_drafter(ensemble),
        "always right": oracle_drafter(ensemble, right),
        "never right": oracle_drafter(ensemble, right, 1),
    }


DRAFTERS = ("tuned", "base", "lookup", "lookup, then tuned", "random", "always right", "never right")


def rounds_of(decoder: Decoder, drafter: Drafter, rule: str = "gumbel", n: int = 4) -> Rounds:
    """Rounds of a fixed length."""
    return Rounds(decoder, drafter, rule, FixedPace(n), max(n, 1))


def watched(rounds: Rounds) -> Iterator[TokenEvent]:
    """The events, the caches being validated after each."""
    ensemble = rounds.decoder.ensemble
    for event in speculative(rounds):
        ensemble.validate(rounds.decoder.slot)
        yield event


# ---- the same text


@pytest.mark.parametrize("n_draft", [1, 2, 4, 9])
@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("kind", DRAFTERS)
def test_gumbel_gives_the_plain_text_whatever_drafts(kind: str, name: str, n_draft: int) -> None:
    """Masked and control tokens, conservative decoding."""
    sampling, knobs = SAMPLINGS[name], Knobs((1.0,), conservative_p=0.6)
    ensemble = fake_ensemble(masked=(3, 9), control=(22,))
    right = ids_of(plain(fake_decoder(ensemble, PROMPT, sampling, Limits(N), knobs)))
    ensemble = fake_ensemble(masked=(3, 9), control=(22,))
    decoder = fake_decoder(ensemble, PROMPT, sampling, Limits(N), knobs)
    rounds = rounds_of(decoder, drafters(ensemble, right)[kind], n=n_draft)
    assert ids_of(watched(rounds)) == right
    if kind == "always right":
        assert rounds.statistics.n_accepted == rounds.statistics.n_drafted
    if kind == "never right":
        assert rounds.statistics.n_accepted == 0


@pytest.mark.parametrize("rule", ["block", "token"])
@pytest.mark.parametrize("kind", DRAFTERS)
def test_greedy_text_is_the_same_under_every_rule(kind: str, rule: str) -> None:
    """Drafts of a sampled law would be judged by chance; greedy laws leave no choice."""
    right = plain_ids(GREEDY)
    ensemble = fake_ensemble()
    drafter = drafters(ensemble, right)[kind]
    assert ids_of(watched(rounds_of(fake_decoder(ensemble, PROMPT, GREEDY, Limits(N)), drafter, rule))) == right


@pytest.mark.parametrize("seed", range(6))
def test_draft_lengths_may_change_from_round_to_round(seed: int) -> None:
    rng = np.random.default_rng(seed)

    class Wild(FixedPace):
        def draft_length(self) -> int:
            return int(rng.integers(0, 7))

    ensemble = fake_ensemble()
    rounds = Rounds(
        fake_decoder(ensemble, PROMPT, HOT, Limits(N)), MemberDrafter(ensemble, 1, NO_MASK, 8), "gumbel", Wild(1), 8
    )
    assert ids_of(watched(rounds)) == plain_ids(HOT)


def test_knobs_may_change_in_the_middle() -> None:
    """Down to the base alone and up again: what a round began with holds to its end, the next one follows."""
    current = Knobs((1.0,))
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(N), knobs=lambda: current)
    used: list[Knobs] = []
    ids: list[int] = []
    for event in watched(rounds_of(decoder, MemberDrafter(ensemble, 1, NO_MASK, 4))):
        used.append(current)
        ids.append(event.id)
        if event.origin in {"corrected", "bonus"}:  # a round ended
            current = [Knobs((0.0,)), Knobs((1.0,), beta=0.0), Knobs((0.7,), beta=1.3), Knobs((1.0,))][len(ids) % 4]
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(N), knobs=lambda: used[min(decoder.position, N - 1)])
    assert ids_of(plain(decoder)) == ids
    assert len({k.alphas for k in used}) > 1


def test_members_that_the_knobs_do_not_need_do_not_verify() -> None:
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(N), knobs=Knobs((0.0,)))
    ids = ids_of(watched(rounds_of(decoder, MemberDrafter(ensemble, 1, NO_MASK, 4))))
    assert fakes(ensemble)[2].decoded == []
    assert ids == ids_of(plain(fake_decoder(fake_ensemble(), PROMPT, HOT, Limits(N), knobs=Knobs((0.0,)))))


# ---- the same law, by enumeration


def fake_law(ensemble: Ensemble, n: int) -> NDArray[np.float64]:
    """(n_vocab,) * n: the joint law of the first n tokens of plain decoding, by its definition."""
    n_vocab = ensemble.n_vocab
    joint = np.ones((n_vocab,) * n)
    laws: dict[tuple[int, ...], NDArray[np.float64]] = {}
    for text in product(range(n_vocab), repeat=n):
        for i, token in enumerate(text):
            if text[:i] not in laws:
                rows = [member.logits([*PROMPT, *text[:i]]) for member in fakes(ensemble)]
                laws[text[:i]] = np.exp(naive.composite(rows[0], [(rows[1], rows[2], 1.0)]))
            joint[text] *= laws[text[:i]][token]
    return joint


def engine_law(
    rule: str, n: int, n_draft: int, drafter: Callable[[Ensemble], Drafter], n_vocab: int = 3
) -> NDArray[np.float64]:
    """The same of the whole engine, every random decision being followed both ways."""

    def text(noise: ExactNoise) -> tuple[int, ...]:
        ensemble = fake_ensemble(n_vocab=n_vocab)
        sampling = Sampling(temperature=1.0, seed=0, **WHOLE)
        decoder = fake_decoder(ensemble, PROMPT, sampling, Limits(n), noise=noise)
        return tuple(ids_of(speculative(rounds_of(decoder, drafter(ensemble), rule, n_draft))))

    joint = np.zeros((n_vocab,) * n)
    for weight, ids, _ in leaves(text):
        joint[ids] += weight
    return joint


@pytest.mark.parametrize(
    ("rule", "n", "n_draft"), [("gumbel", 3, 1), ("block", 3, 1), ("block", 4, 2), ("token", 3, 1), ("token", 4, 2)]
)
@pytest.mark.parametrize("kind", ["tuned", "lookup, then tuned"])
def test_every_rules_law_is_the_plain_one(rule: str, n: int, n_draft: int, kind: str) -> None:
    """Longer texts under ``gumbel`` look at one noise three times, which cannot be integrated; see the tests above."""

    def drafter(ensemble: Ensemble) -> Drafter:
        return drafters(ensemble, ())[kind]

    expected = fake_law(fake_ensemble(n_vocab=3), n)
    joint = engine_law(rule, n, n_draft, drafter)
    assert joint.sum() == pytest.approx(1.0, abs=1e-9)
    assert error(joint, expected) < 1e-6  # rows and scores are float32


def test_the_enumeration_would_notice_a_wrong_proposal() -> None:
    """A drafter that tells another law than it draws from."""

    class Liar(MemberDrafter):
        def draft(self, situation: Situation) -> Draft:
            draft = super().draft(situation)
            draft.proposals = [Law(law.ids, np.full(law.ids.size, -math.log(law.ids.size))) for law in draft.proposals]
            return draft

    joint = engine_law("token", 3, 1, lambda ensemble: Liar(ensemble, 1, NO_MASK, 4))
    assert error(joint, fake_law(fake_ensemble(n_vocab=3), 3)) > 1e-3


# ---- what a round does


def test_a_round_evaluates_each_member_once() -> None:
    """base and reference: prompt, then [pending, x_1 … x_n]; tuned: one at a time, the last only if all stood."""
    right = plain_ids(HOT, Limits(10))
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(10))
    list(speculative(rounds_of(decoder, oracle_drafter(ensemble, right), n=3)))
    assert [member.decoded for member in fakes(ensemble)] == [[3, 4, 4, 1]] * 3
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(10))
    list(speculative(rounds_of(decoder, MemberDrafter(ensemble, 1, NO_MASK, 3), n=3)))
    base, tuned, reference = fakes(ensemble)
    assert base.decoded == reference.decoded
    assert set(tuned.decoded[1:]) <= {1, 2}  # 2: pending and the token that it drafted last


def test_events_say_what_became_of_the_draft() -> None:
    right = plain_ids(HOT, Limits(9))
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(9))
    events = list(speculative(rounds_of(decoder, oracle_drafter(ensemble, right), n=3)))
    assert [e.origin for e in events] == ["plain"] + (["accepted"] * 3 + ["bonus"]) * 2
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(9))
    events = list(speculative(rounds_of(decoder, oracle_drafter(ensemble, right, 1), n=3)))
    assert {e.origin for e in events[1:]} == {"corrected", "plain"}
    assert events[-1].origin == "plain"  # one token left: nothing to draft


def test_events_carry_the_same_figures_as_the_plain_loops() -> None:
    ensemble = fake_ensemble(masked=(3,))
    expected = list(plain(fake_decoder(ensemble, PROMPT, HOT, Limits(N, n_top=3))))
    ensemble = fake_ensemble(masked=(3,))
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(N, n_top=3))
    for event, right in zip(
        speculative(rounds_of(decoder, MemberDrafter(ensemble, 1, np.array([3], np.int32), 4))), expected, strict=True
    ):
        assert event.id == right.id
        assert event.text == right.text
        assert event.finish_reason == right.finish_reason
        assert event.logprob == pytest.approx(right.logprob, abs=1e-6)
        assert event.shift == pytest.approx(right.shift, abs=1e-5)
        assert event.top is not None
        assert right.top is not None
        assert {n: [c.id for c in t] for n, t in event.top.items()} == {
            n: [c.id for c in t] for n, t in right.top.items()
        }


def test_statistics_count_rounds_and_drafts() -> None:
    right = plain_ids(HOT, Limits(10))
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(10))
    list(speculative(rounds_of(decoder, oracle_drafter(ensemble, right), n=3)))
    drafts = decoder.statistics.drafts
    assert drafts is not None
    assert (drafts.n_rounds, drafts.n_drafted, drafts.n_accepted) == (2, 6, 6)  # the last token comes plainly
    assert drafts.lengths == {3: 2}
    assert drafts.accepted_at == drafts.tried_at == [2, 2, 2]
    assert decoder.statistics.n_tokens == 10


class Recorder(FixedPace):
    """A pace that keeps what it is told."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.rounds: list[tuple[int, int, list[float]]] = []
        self.plain: list[float | None] = []

    def observe(
        self, drafted: int, accepted: int, overlaps: Sequence[float] | None = None, seconds: float | None = None
    ) -> None:
        assert seconds is not None
        assert seconds > 0
        self.rounds.append((drafted, accepted, list(overlaps or ())))

    def observe_plain(self, overlap: float | None = None, seconds: float | None = None) -> None:
        assert seconds is not None
        self.plain.append(overlap)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["whole", "frequency"])
def test_the_pace_is_told_how_well_laws_agree(rule: str, name: str) -> None:
    """Expected acceptance at each position that was looked at, and at plain steps as well."""
    ensemble = fake_ensemble()
    pace = Recorder(3)
    sampling = SAMPLINGS[name]
    decoder = fake_decoder(ensemble, PROMPT, sampling, Limits(N))
    events = list(speculative(Rounds(decoder, MemberDrafter(ensemble, 1, NO_MASK, 4), rule, pace, 4)))
    expected_acceptance = coincidence if rule == "gumbel" else overlap
    text: list[int] = []
    overlaps = []
    for event in events:
        sampler = fake_sampler(sampling, ensemble.n_vocab)
        for token in text:
            sampler.accept(token)
        rows = [member.logits([*PROMPT, *text]) for member in fakes(ensemble)]
        law = naive.composite(rows[0], [(rows[1], rows[2], 1.0)]).astype(np.float32)
        overlaps.append(expected_acceptance(sampler.law(law), sampler.law(rows[1])))
        text.append(event.id)
    assert pace.plain[0] == pytest.approx(overlaps[0], abs=1e-4)
    position = 1
    for drafted, accepted, told in pace.rounds:
        n_known = min(accepted + 1, drafted)
        assert told[:n_known] == pytest.approx(overlaps[position : position + n_known], abs=1e-4)
        position += accepted + 1
    assert sum(accepted + 1 for _, accepted, _ in pace.rounds) + len(pace.plain) == N


# ---- ends


@pytest.mark.parametrize("max_tokens", range(1, 9))
def test_never_more_than_max_tokens(max_tokens: int) -> None:
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(max_tokens))
    events = list(watched(rounds_of(decoder, MemberDrafter(ensemble, 1, NO_MASK, 8), n=8)))
    assert [e.id for e in events] == plain_ids(HOT, Limits(max_tokens))
    assert [e.finish_reason for e in events] == [None] * (max_tokens - 1) + ["length"]
    assert ensemble.texts[0].answer == [e.id for e in events]


@pytest.mark.parametrize("n_ctx", range(4, 12))
@pytest.mark.parametrize("kind", ["tuned", "always right", "never right"])
def test_drafting_never_goes_beyond_the_context(n_ctx: int, kind: str) -> None:
    """The fakes fail at the first token too many."""
    right = plain_ids(HOT, Limits(None), n_ctx=n_ctx)
    assert len(right) == n_ctx - len(PROMPT)
    ensemble = fake_ensemble(n_ctx=n_ctx)
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(None))
    events = list(watched(rounds_of(decoder, drafters(ensemble, right)[kind], n=8)))
    assert [e.id for e in events] == right
    assert events[-1].finish_reason == "length"


@pytest.mark.parametrize("at", range(1, 12))
def test_an_end_token_inside_a_draft_ends_the_answer_there(at: int) -> None:
    for rule, sampling in (("gumbel", HOT), ("block", GREEDY), ("token", GREEDY)):
        right = plain_ids(sampling)
        end = right[at]
        first = right.index(end)
        ensemble = fake_ensemble(eog=(end,))
        decoder = fake_decoder(ensemble, PROMPT, sampling, Limits(N))
        events = list(watched(rounds_of(decoder, oracle_drafter(ensemble, right), rule, 6)))
        assert [e.id for e in events] == right[: first + 1]
        assert events[-1].finish_reason == "stop"
        assert decoder.statistics.n_tokens == first + 1
        assert ensemble.texts[0].answer == right[: first + 1]


def test_a_stop_string_inside_a_draft_ends_the_answer_there() -> None:
    whole = "".join(e.text for e in plain(fake_decoder(fake_ensemble(), PROMPT, HOT, Limits(N))))
    stop = whole[6:9]
    for n in (1, 4, 8):
        ensemble = fake_ensemble()
        decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(N, stop=(stop,)))
        events = list(watched(rounds_of(decoder, oracle_drafter(ensemble, plain_ids(HOT)), n=n)))
        assert "".join(e.text for e in events) == whole[: whole.find(stop)]
        assert events[-1].finish_reason == "stop"
        assert ensemble.texts[0].answer == [e.id for e in events]


# ---- stopped or failing in the middle


def fail_at(ensemble: Ensemble, at: int, error: Exception) -> None:
    """The ensemble's decode number ``at`` fails, whichever member's it is."""
    n_decodes = 0

    def fail(n_tokens: int) -> Exception | None:
        nonlocal n_decodes
        n_decodes += 1
        return error if n_decodes - 1 == at else None

    for member in fakes(ensemble):
        member.fail = fail


@pytest.mark.parametrize("at", range(22))
@pytest.mark.parametrize("error", [Cancelled("stopped"), CacheFullError("no room"), EngineError("failed")], ids=str)
def test_a_decode_that_fails_anywhere_leaves_sound_caches(at: int, error: EngineError) -> None:
    """In the prompt, in a draft, in its verification, in the drafter's last step; the next answer is the right one."""
    ensemble = fake_ensemble()
    fail_at(ensemble, at, error)
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(N))
    events: list[TokenEvent] = []
    stream = speculative(rounds_of(decoder, MemberDrafter(ensemble, 1, NO_MASK, 4)))
    if isinstance(error, Cancelled):
        events = list(stream)
        assert events.pop().finish_reason == "cancelled"
    else:
        with pytest.raises(type(error)):
            events.extend(stream)
    ensemble.validate(0)
    shown = [e.id for e in events]
    assert shown == plain_ids(HOT)[: len(shown)]
    assert ensemble.texts[0].answer == shown
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(N))
    assert ids_of(speculative(rounds_of(decoder, MemberDrafter(ensemble, 1, NO_MASK, 4)))) == plain_ids(HOT)


def test_a_device_that_cannot_stop_inside_a_decode_stops_between_rounds() -> None:
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(N))
    stream = speculative(rounds_of(decoder, oracle_drafter(ensemble, plain_ids(HOT)), n=3))
    shown = [next(stream) for _ in range(3)]
    ensemble.members[0].cancel.set()
    rest = list(stream)
    assert rest.pop().finish_reason == "cancelled"
    assert len(rest) <= 2  # of the round that was already decided
    assert [e.id for e in (*shown, *rest)] == plain_ids(HOT)[: len(shown) + len(rest)]
    ensemble.validate(0)


def test_an_abandoned_stream_leaves_a_sound_ensemble() -> None:
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(N))
    stream = speculative(rounds_of(decoder, MemberDrafter(ensemble, 1, NO_MASK, 4)))
    for _ in range(3):
        next(stream)
    stream.close()  # type: ignore[attr-defined]  # a generator
    ensemble.validate(0)
    assert decoder.statistics.decode_s > 0


# ---- a real pace


def test_the_real_pace_fits() -> None:
    from eftlite.costs import CostCurve, Costs

    curve = CostCurve.of({1: 0.01, 16: 0.012})
    cheap = CostCurve.of({1: 0.0001, 16: 0.0002})
    costs = Costs({"base": curve, "tuned": cheap, "reference": cheap}, ("base", "reference"), "tuned")
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, HOT, Limits(N))
    pace = RealPace(costs, 8)
    rounds = Rounds(decoder, MemberDrafter(ensemble, 1, NO_MASK, 8), "gumbel", pace, 8)
    assert ids_of(watched(rounds)) == plain_ids(HOT)
    assert rounds.statistics.n_accepted > 0


# ---- the real engine


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_real_texts_are_the_same_whatever_drafts(tmp_path: Path, temperature: float) -> None:
    """Rows 4, 5 and 6 in small: two prompts, drafts of 1 and 4, six drafters; a difference must be a tie."""
    prompts = ["hello there", "the quick brown fox the quick"]
    limits = Limits(24)
    sampling = Sampling(temperature=temperature, seed=9, **WHOLE)
    with tiny_eft(tmp_path) as eft:
        for prompt in prompts:
            ids = [eft.tokenize(prompt.encode())] * 3
            right = ids_of(eft.complete(prompt, sampling=sampling, limits=limits, speculation=PLAIN))
            ensemble = eft._engine.ensemble
            use_drafter(eft, "random", random_drafter(ensemble))
            use_drafter(eft, "never", oracle_drafter(ensemble, right, 1))
            for drafter, n in product(("auto", "lookup", "lookup+auto", "base", "random", "never"), (1, 4)):
                speculation = Speculation(drafter=drafter, n_draft=n)
                events = eft.complete(prompt, sampling=sampling, limits=limits, speculation=speculation)
                text = []
                for event in events:
                    text.append(event.id)
                    eft.validate()
                assert events.statistics.drafts is not None
                assert_same_text(eft, ids, right, text, sampling)
