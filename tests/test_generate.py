"""The plain loop, against a naive twin of the paper's algorithm; events, statistics, ends."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from eftlite.composite import Roles
from eftlite.ensemble import Ensemble
from eftlite.errors import CacheFullError, EngineError, InputError
from eftlite.events import DraftStatistics, Statistics, TokenEvent
from eftlite.generate import Decoder, plain
from eftlite.noise import Noise
from eftlite.settings import Knobs, Limits, Sampling
from tests import naive
from tests.fakes import GREEDY, WHOLE, fake_decoder, fake_ensemble, fake_piece, fakes

PROMPT = [1, 2, 3]


def naive_text(
    ensemble: Ensemble, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, knobs: Sequence[Knobs]
) -> list[int]:
    """Evaluate, combine, draw, append; without caches, float64, one knob setting for each token."""
    text: list[int] = []
    shared = ensemble.shared
    for position in range(n):
        rows = [m.logits([*p, *text]) for m, p in zip(fakes(ensemble), prompts, strict=True)]
        k = knobs[min(position, len(knobs) - 1)]
        deltas = [(rows[t], rows[r], a) for (t, r), a in zip(ensemble.roles.deltas, k.alphas, strict=True)]
        control = shared.control.tolist() if k.control_tokens else []
        law = naive.composite(rows[0], deltas, k.beta, k.conservative_p, control, shared.masked.tolist())
        if sampling.temperature:
            ids = np.arange(len(law), dtype=np.int32)  # (n_vocab,)
            law = law / sampling.temperature + Noise(sampling.seed or 0).gumbel(position, ids)
        text.append(int(law.argmax()))
    return text


def run(decoder: Decoder) -> list[TokenEvent]:
    """All events of the plain loop."""
    return list(plain(decoder))


# ---- the algorithm


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0, seed=5, **WHOLE)], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    "knobs",
    [
        Knobs((1.0,)),
        Knobs((0.5,)),
        Knobs((0.0,)),
        Knobs((1.0,), beta=0.0),
        Knobs((1.0,), beta=1.7),
        Knobs((1.0,), conservative_p=0.5),
        Knobs((-0.5,), allow_negative=True, control_tokens=False),
    ],
    ids=str,
)
def test_the_loop_is_the_papers(sampling: Sampling, knobs: Knobs) -> None:
    ensemble = fake_ensemble(masked=(3, 20), control=(22, 23))
    expected = naive_text(ensemble, [PROMPT] * 3, 12, sampling, [knobs])
    assert [event.id for event in run(fake_decoder(ensemble, PROMPT, sampling, knobs=knobs))] == expected
    ensemble.validate(0)


def test_two_deltas() -> None:
    ensemble = fake_ensemble(4, Roles(4, 0, ((1, 2), (3, 2))))
    knobs = Knobs((0.7, 0.4))
    expected = naive_text(ensemble, [PROMPT] * 4, 12, GREEDY, [knobs])
    assert [event.id for event in run(fake_decoder(ensemble, PROMPT, knobs=knobs))] == expected


def test_a_base_alone() -> None:
    ensemble = fake_ensemble(1, Roles(1, 0, ()))
    events = run(fake_decoder(ensemble, PROMPT))
    text: list[int] = []
    for _ in range(12):
        text.append(int(fakes(ensemble)[0].logits(PROMPT + text).argmax()))
    assert [event.id for event in events] == text
    assert all(event.shift is None for event in events)


def test_knobs_may_change_between_two_tokens() -> None:
    """The small models are not decoded before they are needed, and catch up in one batch."""
    ensemble = fake_ensemble()
    settings = [Knobs((0.0,))] * 4 + [Knobs((1.0,))] * 4 + [Knobs((1.0,), beta=0.0)] * 4
    current = settings[0]
    decoder = fake_decoder(ensemble, PROMPT, knobs=lambda: current)
    events, stream = [], plain(decoder)
    for k in settings:
        current = k
        events.append(next(stream).id)
        ensemble.validate(0)
    assert events == naive_text(ensemble, [PROMPT] * 3, 12, GREEDY, settings)
    base, tuned, reference = fakes(ensemble)
    assert base.decoded == [3] + [1] * 7  # not needed for the last four
    assert tuned.decoded == [7] + [1] * 7  # the prompt and what came since
    assert reference.decoded == [7, 1, 1, 1]


def test_the_same_knobs_object_makes_no_new_recipe() -> None:
    decoder = fake_decoder(fake_ensemble(), knobs=Knobs((1.0,)))
    assert decoder.recipe is decoder.recipe


def test_knobs_of_another_family_are_refused() -> None:
    with pytest.raises(InputError, match="alphas: expected 1, one for each delta, got 2"):
        fake_decoder(fake_ensemble(), knobs=Knobs((1.0, 1.0)))


# ---- events


def test_an_event_says_what_was_drawn_and_how_likely_it_was() -> None:
    ensemble = fake_ensemble(masked=(3,))
    events = run(fake_decoder(ensemble, PROMPT, limits=Limits(3, n_top=4)))
    text: list[int] = []
    for event in events:
        base, tuned, reference = (member.logits(PROMPT + text) for member in fakes(ensemble))
        law = naive.composite(base, [(tuned, reference, 1.0)], masked=[3])
        assert event.logprob == pytest.approx(law[event.id], abs=1e-5)
        assert event.shift == pytest.approx(naive.total_variation(naive.log_softmax(tuned), law), abs=1e-4)
        assert event.piece == fake_piece(event.id)
        assert event.origin == "plain"
        assert event.top is not None
        assert set(event.top) == {"eft", "base", "tuned", "reference"}
        for name, row in (("eft", law), ("base", naive.log_softmax(base)), ("tuned", naive.log_softmax(tuned))):
            best = sorted(range(len(row)), key=lambda i: (-row[i], i))[:4]
            assert [c.id for c in event.top[name]] == best
            assert [c.logprob for c in event.top[name]] == pytest.approx([row[i] for i in best], abs=1e-4)
        text.append(event.id)
    assert "".join(event.text for event in events) == b"".join(event.piece for event in events).decode()


def test_no_top_candidates_unless_asked_for() -> None:
    assert all(event.top is None for event in run(fake_decoder(fake_ensemble())))


def test_more_top_candidates_than_tokens() -> None:
    (event,) = run(fake_decoder(fake_ensemble(), limits=Limits(1, n_top=100)))
    assert event.top is not None
    assert len(event.top["eft"]) == 24


def test_members_that_are_not_needed_have_no_top() -> None:
    (event,) = run(fake_decoder(fake_ensemble(), limits=Limits(1, n_top=2), knobs=Knobs((0.0,))))
    assert event.top is not None
    assert set(event.top) == {"eft", "base"}


# ---- ends


def test_max_tokens() -> None:
    decoder = fake_decoder(fake_ensemble(), limits=Limits(5))
    events = run(decoder)
    assert [event.finish_reason for event in events] == [None] * 4 + ["length"]
    assert decoder.statistics.finish_reason == "length"
    assert decoder.statistics.n_tokens == 5


@pytest.mark.parametrize("n_prompt", [1, 13, 14, 15])
def test_the_context_ends_an_answer(n_prompt: int) -> None:
    """The last token may stand behind the last evaluated one; the fake fails beyond its context."""
    ensemble = fake_ensemble(n_ctx=16)
    events = run(fake_decoder(ensemble, [1] * n_prompt, limits=Limits(None)))
    assert len(events) == 16 - n_prompt
    assert events[-1].finish_reason == "length"
    ensemble.validate(0)


def test_an_end_token_ends_it_without_text() -> None:
    free = run(fake_decoder(fake_ensemble(), PROMPT))
    end = free[4].id
    first = next(i for i, event in enumerate(free) if event.id == end)
    events = run(fake_decoder(fake_ensemble(eog=(end,)), PROMPT))
    assert [event.id for event in events] == [event.id for event in free[: first + 1]]
    assert events[-1].finish_reason == "stop"
    assert events[-1].text == ""


def test_a_stop_string_over_token_borders_is_never_shown() -> None:
    whole = "".join(event.text for event in run(fake_decoder(fake_ensemble(), PROMPT)))
    stop = whole[4:7]
    at = whole.find(stop)
    events = run(fake_decoder(fake_ensemble(), PROMPT, limits=Limits(12, stop=(stop,))))
    assert "".join(event.text for event in events) == whole[:at]
    assert events[-1].finish_reason == "stop"
    assert len(events) == at + 3


def test_what_a_stop_string_held_back_is_shown_at_the_end() -> None:
    whole = "".join(event.text for event in run(fake_decoder(fake_ensemble(), PROMPT, limits=Limits(6))))
    events = run(fake_decoder(fake_ensemble(), PROMPT, limits=Limits(6, stop=(whole[-2:] + "?",))))
    assert "".join(event.text for event in events) == whole
    assert events[-2].text == ""


def test_the_user_stops_it_and_what_was_shown_stays() -> None:
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, limits=Limits(20))
    stream = plain(decoder)
    shown = [next(stream) for _ in range(3)]
    ensemble.members[0].cancel.set()
    (last,) = list(stream)
    assert (last.id, last.text, last.finish_reason) == (-1, "", "cancelled")
    assert decoder.statistics.finish_reason == "cancelled"
    assert decoder.statistics.n_tokens == 3
    assert ensemble.texts[0].answer == [event.id for event in shown]
    ensemble.validate(0)


def test_an_engine_error_leaves_a_sound_ensemble() -> None:
    ensemble = fake_ensemble()
    stream = plain(fake_decoder(ensemble, PROMPT))
    next(stream)
    fakes(ensemble)[1].fail = lambda n_tokens: CacheFullError("tuned: no room", code=1)
    with pytest.raises(CacheFullError):
        next(stream)
    fakes(ensemble)[1].fail = lambda n_tokens: None
    ensemble.validate(0)


def test_logits_that_are_no_numbers_are_an_error() -> None:
    ensemble = fake_ensemble()
    fakes(ensemble)[1].logits = lambda ids: np.full(24, np.nan, np.float32)  # type: ignore[method-assign]  # damage
    with pytest.raises(EngineError, match="finite"):
        run(fake_decoder(ensemble, PROMPT))


# ---- figures


def test_statistics_add_up() -> None:
    decoder = fake_decoder(fake_ensemble(), PROMPT, limits=Limits(6))
    events = run(decoder)
    s = decoder.statistics
    assert (s.n_prompt, s.n_tokens) == (3, 6)
    assert s.prompt_s > 0
    assert s.decode_s > 0
    assert s.member_s == pytest.approx({"base": 0.008, "tuned": 0.008, "reference": 0.008})
    assert s.shift == pytest.approx(np.mean([event.shift for event in events]))
    assert s.tokens_per_s == pytest.approx(5 / s.decode_s)
    assert s.drafts is None


def test_speed_of_nothing_is_zero() -> None:
    assert Statistics().tokens_per_s == 0.0
    assert Statistics(n_tokens=1, decode_s=1.0).tokens_per_s == 0.0


def test_draft_statistics_count_positions_while_all_before_stood() -> None:
    drafts = DraftStatistics()
    for drafted, accepted in ((3, 3), (3, 1), (1, 0), (3, 0)):
        drafts.add(drafted, accepted)
    assert (drafts.n_rounds, drafts.n_drafted, drafts.n_accepted) == (4, 10, 4)
    assert drafts.lengths == {3: 3, 1: 1}
    assert drafts.tried_at == [4, 2, 1]
    assert drafts.accepted_at == [2, 1, 1]


def test_law_sums_to_one_at_every_event() -> None:
    """exp(logprob) of all tokens: the composite of an event is normalised."""
    ensemble = fake_ensemble()
    decoder = fake_decoder(ensemble, PROMPT, limits=Limits(1, n_top=24))
    (event,) = run(decoder)
    assert event.top is not None
    assert math.fsum(math.exp(c.logprob) for c in event.top["eft"]) == pytest.approx(1.0, abs=1e-5)
