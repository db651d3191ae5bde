"""Sampling settings -> law, against a naive twin of llama.cpp's chain; draws against the law."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from eftlite.errors import EngineError, InputError
from eftlite.llama import Model
from eftlite.noise import Noise
from eftlite.sampling import Sampler
from eftlite.settings import ModelSettings, Sampling
from eftlite.verify import draw
from tests.conftest import ROOT
from tests.fakes import WHOLE, fake_sampler
from tests.tiny_gguf import write_model

N = 60
END = 511


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """For grammars and DRY, which read the vocabulary."""
    made = Model(write_model(tmp_path_factory.mktemp("s") / "m.gguf", seed=1), ModelSettings(n_threads=1))
    yield made
    made.close()


def scores_of(seed: int, n: int = N) -> NDArray[np.float32]:
    """(n,) float32, no two alike, not normalised."""
    return np.random.default_rng(seed).normal(-3.0, 2.5, n).astype(np.float32)


# ---- the twin


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logits - logits.max())
    law: NDArray[np.float64] = weights / weights.sum()
    return law


def penalised(logits: NDArray[np.float64], s: Sampling, text: Sequence[int]) -> NDArray[np.float64]:
    """Repeat, frequency and presence penalties of the last tokens."""
    last = list(text)[-s.penalty_last_n :] if s.penalty_last_n > 0 else []
    for token in set(last):
        divides = logits[token] > 0
        logits[token] = logits[token] / s.repeat_penalty if divides else logits[token] * s.repeat_penalty
        logits[token] -= last.count(token) * s.frequency_penalty + s.presence_penalty
    return logits


def typical(logits: NDArray[np.float64], ids: NDArray[np.int64], p: float) -> NDArray[np.int64]:
    """Tokens whose surprise is nearest to the entropy, until their mass exceeds p (Meister et al., 2023)."""
    law = softmax(logits[ids])
    entropy = -(law * np.log(law)).sum()
    order = np.argsort(np.abs(-np.log(law) - entropy))
    n_kept = int(np.argmax(np.append(np.cumsum(law[order]) > p, [True]))) + 1
    return ids[order[:n_kept]]


def twin(scores: NDArray[np.float32], s: Sampling, text: Sequence[int] = ()) -> dict[int, float]:
    """{id: log-probability}: bias, penalties, top-k, typical, top-p, min-p, temperature, one after the other."""
    logits = scores.astype(np.float64)
    for token, bias in s.logit_bias.items():
        logits[token] += bias
    logits = penalised(logits, s, text)
    ids = np.argsort(-logits, kind="stable")
    ids = ids[logits[ids] > -np.inf]
    if s.temperature == 0:
        return {int(ids[0]): 0.0}
    if s.top_k > 0:
        ids = ids[: s.top_k]
    if s.typical_p < 1:
        ids = typical(logits, ids, s.typical_p)
        ids = ids[np.argsort(-logits[ids], kind="stable")]
    if s.top_p < 1:
        ids = ids[: int(np.argmax(np.cumsum(softmax(logits[ids])) >= s.top_p)) + 1]
    if s.min_p > 0:
        ids = ids[logits[ids] >= logits[ids[0]] + math.log(s.min_p)]
    law = np.log(softmax(logits[ids] / s.temperature))
    return dict(zip(ids.tolist(), law.tolist(), strict=True))


def law_of(sampler: Sampler, scores: NDArray[np.float32]) -> dict[int, float]:
    """{id: log-probability} of the sampler's law; checks that it is one."""
    law = sampler.law(scores)
    assert law.ids.dtype == np.int32
    assert law.logprobs.dtype == np.float64
    assert len(set(law.ids.tolist())) == law.ids.size
    assert math.fsum(np.exp(law.logprobs)) == pytest.approx(1.0, abs=1e-12)
    return dict(zip(law.ids.tolist(), law.logprobs.tolist(), strict=True))


SETTINGS = {
    "defaults": Sampling(),
    "nothing": Sampling(temperature=1.0, **WHOLE),
    "temperature": Sampling(temperature=0.3, **WHOLE),
    "hot": Sampling(temperature=3.0, **WHOLE),
    "top-k": Sampling(**{**WHOLE, "top_k": 7}),
    "top-k 1": Sampling(**{**WHOLE, "top_k": 1}),
    "top-k more than there are": Sampling(**{**WHOLE, "top_k": 1000}),
    "top-k -1": Sampling(**{**WHOLE, "top_k": -1}),
    "top-p": Sampling(**{**WHOLE, "top_p": 0.6}),
    "top-p 0": Sampling(**{**WHOLE, "top_p": 0.0}),
    "min-p": Sampling(**{**WHOLE, "min_p": 0.1}),
    "min-p 1": Sampling(**{**WHOLE, "min_p": 1.0}),
    "typical": Sampling(**WHOLE, typical_p=0.5),
    "all filters": Sampling(temperature=0.6, top_k=20, typical_p=0.95, top_p=0.8, min_p=0.02),
    "repeat": Sampling(**WHOLE, repeat_penalty=1.7),
    "frequency": Sampling(**WHOLE, frequency_penalty=0.9),
    "presence": Sampling(**WHOLE, presence_penalty=-1.3),
    "few last tokens": Sampling(**WHOLE, frequency_penalty=0.9, penalty_last_n=3),
    "no last tokens": Sampling(**WHOLE, frequency_penalty=0.9, penalty_last_n=0),
    "bias": Sampling(logit_bias={3: 5.0, 4: -math.inf, 5: -2.5}, **WHOLE),
    "greedy": Sampling(temperature=0.0),
    "greedy with penalties": Sampling(temperature=0.0, repeat_penalty=1.5, presence_penalty=2.0),
    "everything": Sampling(
        temperature=0.7, top_k=25, top_p=0.9, min_p=0.01, typical_p=0.97, repeat_penalty=1.2, frequency_penalty=0.3,
        presence_penalty=0.2, logit_bias={1: 1.0, 2: -math.inf},
    ),
}  # fmt: skip  # a table


@pytest.mark.parametrize("name", SETTINGS)
def test_the_law_is_that_of_the_naive_chain(name: str) -> None:
    s = SETTINGS[name]
    rng = np.random.default_rng(7)
    for seed in range(12):
        scores = scores_of(seed)
        sampler = fake_sampler(s, N)
        text = [int(x) for x in rng.integers(0, N, 5 * seed)] + [int(scores.argmax())]
        for token in text:
            sampler.accept(token)
        law, expected = law_of(sampler, scores), twin(scores, s, text)
        assert law.keys() == expected.keys()
        for token, logprob in expected.items():
            assert law[token] == pytest.approx(logprob, abs=2e-5)


def test_a_large_vocabulary_goes_other_ways_in_llama_cpp() -> None:
    """More than 1,024 candidates are sorted by buckets."""
    scores = scores_of(3, 5000)
    for name in ("defaults", "top-p", "all filters", "nothing"):
        law, expected = law_of(fake_sampler(SETTINGS[name], 5000), scores), twin(scores, SETTINGS[name])
        assert law.keys() == expected.keys()
        assert max(abs(law[token] - expected[token]) for token in law) < 2e-5


def test_a_constant_added_to_all_scores_changes_nothing() -> None:
    for name in ("defaults", "all filters", "bias"):
        sampler, scores = fake_sampler(SETTINGS[name], N), scores_of(1)
        law, moved = law_of(sampler, scores), law_of(sampler, scores + np.float32(8.0))
        assert law.keys() == moved.keys()
        assert max(abs(law[token] - moved[token]) for token in law) < 1e-5


def test_all_last_tokens_are_penalised_when_asked_for() -> None:
    """-1 means all of them, as in llama.cpp's own tools; its sampler alone would take it for none."""
    s = Sampling(**WHOLE, presence_penalty=3.0, penalty_last_n=-1)
    sampler, scores = fake_sampler(s, N), scores_of(1)
    for token in (5, *[6] * 200):
        sampler.accept(token)
    expected = twin(scores, Sampling(**WHOLE, presence_penalty=3.0, penalty_last_n=1000), (5, *[6] * 200))
    assert law_of(sampler, scores) == pytest.approx(expected, abs=2e-5)


def test_dry_subtracts_for_what_would_go_on_repeating(model: Model) -> None:
    """After a b c … a b, c continues a repetition of two tokens: multiplier · base^(2 - allowed)."""
    s = Sampling(temperature=1.0, **WHOLE, dry_multiplier=2.0, dry_base=3.0, dry_allowed_length=1)
    sampler = Sampler(s, model, 512)
    for token in (65, 66, 67, 70, 65, 66):
        sampler.accept(token)
    scores = np.zeros(512, np.float32)  # (512,)
    law = law_of(sampler, scores)
    assert law[68] - law[67] == pytest.approx(2.0 * 3.0, abs=1e-4)
    assert law[66] == pytest.approx(law[68])


# ---- greedy


def test_ties_give_the_lowest_id() -> None:
    scores = np.full(N, -1.0, np.float32)  # (60,)
    scores[[9, 4, 30]] = 2.0
    for s in (Sampling(temperature=0.0), Sampling(temperature=0.0, repeat_penalty=1.5)):
        assert law_of(fake_sampler(s, N), scores) == {4: 0.0}


def test_greedy_ignores_filters_but_not_bias_and_penalties() -> None:
    scores = scores_of(1)
    best, second = (int(i) for i in np.argsort(-scores)[:2])
    assert law_of(fake_sampler(Sampling(temperature=0.0, top_k=1, min_p=1.0), N), scores) == {best: 0.0}
    banned = fake_sampler(Sampling(temperature=0.0, logit_bias={best: -math.inf}), N)
    assert law_of(banned, scores) == {second: 0.0}
    shy = fake_sampler(Sampling(temperature=0.0, presence_penalty=50.0), N)
    shy.accept(best)
    assert law_of(shy, scores) == {second: 0.0}


def test_masked_scores_are_never_candidates() -> None:
    scores = scores_of(1)
    scores[[0, 7, int(scores.argmax())]] = -np.inf
    for name in ("nothing", "defaults", "greedy", "greedy with penalties", "everything"):
        law = law_of(fake_sampler(SETTINGS[name], N), scores)
        assert not law.keys() & set(np.flatnonzero(np.isneginf(scores)).tolist())


# ---- grammar


def allowed(sampler: Sampler) -> set[int]:
    """Candidates when everything else is equal."""
    return set(law_of(sampler, np.zeros(512, np.float32)))


def test_a_grammar_allows_what_can_still_become_a_sentence(model: Model) -> None:
    sampler = Sampler(Sampling(**WHOLE, grammar='root ::= "yes" | "no"'), model, 512)
    beginnings = {i for i in range(509) if model.piece(i) and "yes".startswith(model.piece(i).decode("latin-1"))}
    beginnings |= {i for i in range(509) if model.piece(i) and "no".startswith(model.piece(i).decode("latin-1"))}
    assert allowed(sampler) == beginnings
    (y,) = model.tokenize(b"y")
    sampler.accept(y)
    rest = allowed(sampler)
    assert {model.piece(i) for i in rest} <= {b"e", b"es"}
    for piece in (b"e", b"s"):
        sampler.accept(*model.tokenize(piece))
    assert allowed(sampler) == {END}
    sampler.accept(END)
    assert allowed(sampler) == {END}


def test_a_greedy_choice_obeys_the_grammar(model: Model) -> None:
    scores = np.zeros(512, np.float32)  # (512,)
    scores[ord("z") - 33] = 9.0
    law = law_of(Sampler(Sampling(temperature=0.0, grammar='root ::= "yes"'), model, 512), scores)
    assert model.piece(next(iter(law))) in {b"y", b"ye", b"yes"}


@pytest.mark.parametrize(
    "grammar", ["nonsense", "other ::= [a-z]", "root ::= root [a-z]", 'root ::= "a', "root ::= missing"]
)
def test_bad_grammars_are_refused(model: Model, grammar: str) -> None:
    with pytest.raises(InputError, match="grammar: expected GBNF"):
        Sampler(Sampling(grammar=grammar, logit_bias={1: 1.0}), model, 512)


@pytest.mark.parametrize("grammar", ["root ::= " + "(" * 200_000, "a ::= b\n" * 200_000])
def test_grammars_that_would_overflow_the_stack_are_refused(model: Model, grammar: str) -> None:
    """llama.cpp's parser recurses and would end the process."""
    with pytest.raises(InputError, match="grammar: expected at most"):
        Sampler(Sampling(grammar=grammar), model, 512)


def test_the_largest_grammars_that_are_let_through_do_not_end_the_process(tmp_path: object) -> None:
    """Parentheses and chains of rules up to the limits, in a child process with the usual stack."""
    code = """
import sys
from pathlib import Path
from eftlite.llama import Model
from eftlite.sampling import MAX_NESTING, MAX_RULES, Sampler
from eftlite.settings import ModelSettings, Sampling
from tests.tiny_gguf import write_model
model = Model(write_model(Path(sys.argv[1]) / "m.gguf", seed=1), ModelSettings(n_threads=1, use_extra_bufts=False))
nested = "root ::= " + "(" * MAX_NESTING + '"a"' + ")" * MAX_NESTING
chain = "root ::= r1\\n" + "".join(f"r{i}::=r{i + 1}\\n" for i in range(1, MAX_RULES - 1)) + f'r{MAX_RULES - 1}::="a"'
import numpy as np
for grammar in (nested, chain):
    Sampler(Sampling(grammar=grammar), model, 512).law(np.zeros(512, np.float32))
print("alive")
"""
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert child.stdout.strip() == "alive", child.stderr


# ---- nothing left, and nothing sound


def test_no_token_left_is_said(model: Model) -> None:
    everything = dict.fromkeys(range(512), -math.inf)
    with pytest.raises(InputError, match="no token is left to continue with"):
        Sampler(Sampling(logit_bias=everything), model, 512).law(np.zeros(512, np.float32))
    banned = {i: -math.inf for i in range(512) if model.piece(i)[:1] == b"y"}
    for temperature in (0.0, 1.0):
        sampler = Sampler(Sampling(temperature=temperature, grammar='root ::= "yes"', logit_bias=banned), model, 512)
        with pytest.raises(InputError, match="no token is left to continue with"):
            sampler.law(np.zeros(512, np.float32))


@pytest.mark.parametrize("name", ["defaults", "nothing", "greedy with penalties", "greedy"])
def test_scores_that_are_no_numbers_are_an_error_of_the_engine(name: str) -> None:
    """A damaged model's, not a grammar's."""
    scores = scores_of(1)
    scores[5] = np.nan
    with pytest.raises(EngineError, match="finite"):
        fake_sampler(SETTINGS[name], N).law(scores)


# ---- memory


def test_a_clone_remembers_and_goes_its_own_way() -> None:
    s, scores = Sampling(**WHOLE, frequency_penalty=1.0), scores_of(2)
    sampler = fake_sampler(s, N)
    sampler.accept(3)
    clone = sampler.clone()
    clone.accept(4)
    assert law_of(sampler, scores) == pytest.approx(twin(scores, s, [3]), abs=2e-5)
    assert law_of(clone, scores) == pytest.approx(twin(scores, s, [3, 4]), abs=2e-5)
    clone.close()
    clone.close()
    assert law_of(sampler, scores) == pytest.approx(twin(scores, s, [3]), abs=2e-5)


def test_a_clone_keeps_the_grammars_state(model: Model) -> None:
    sampler = Sampler(Sampling(**WHOLE, grammar='root ::= "yes" | "no"'), model, 512)
    sampler.accept(*model.tokenize(b"y"))
    clone = sampler.clone()
    clone.accept(*model.tokenize(b"e"))
    assert {model.piece(i) for i in allowed(clone)} == {b"s"}
    assert b"e" in {model.piece(i) for i in allowed(sampler)}


@pytest.mark.parametrize(
    ("s", "remembers"),
    [
        (Sampling(), False),
        (Sampling(temperature=0.0, logit_bias={1: 2.0}), False),
        (Sampling(repeat_penalty=1.1), True),
        (Sampling(frequency_penalty=0.1), True),
        (Sampling(presence_penalty=-0.1), True),
        (Sampling(mirostat=2), True),
    ],
)
def test_what_remembers(s: Sampling, remembers: bool) -> None:
    assert fake_sampler(s, N).remembers == remembers


# ---- drawing


def chi_square(counts: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """Deviations from the mean of chi-square's approximate normal (Wilson and Hilferty)."""
    n_free = counts.size - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return float(((statistic / n_free) ** (1 / 3) - (1 - 2 / (9 * n_free))) / math.sqrt(2 / (9 * n_free)))


@pytest.mark.parametrize("name", ["defaults", "nothing", "all filters", "repeat"])
@pytest.mark.parametrize("axis", ["positions", "seeds"])
def test_draws_follow_the_law(name: str, axis: str) -> None:
    """8,000 draws at as many positions of one seed, or of as many seeds; fails falsely with probability 1e-5."""
    sampler = fake_sampler(SETTINGS[name], N)
    law, n = sampler.law(scores_of(4)), 8000
    one = Noise(11)
    drawn = [draw(law, one, i) if axis == "positions" else draw(law, Noise(i), 5) for i in range(n)]
    expected = n * np.exp(law.logprobs)
    counts = np.array([drawn.count(int(token)) for token in law.ids])
    assert counts.sum() == n
    rare = expected < 5
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    assert chi_square(counts, expected) < 4.3


def test_mirostat_draws_by_itself_and_repeatably() -> None:
    s = Sampling(mirostat=2, temperature=1.0)
    texts = []
    for seed in (1, 1, 2):
        sampler = Sampler(s, fake_sampler(s, N)._model, N, seed)
        text = []
        for i in range(40):
            token = sampler.select(scores_of(i))
            sampler.accept(token)
            text.append(token)
        texts.append(text)
    assert texts[0] == texts[1] != texts[2]
    assert all(0 <= token < N for token in texts[0])


@pytest.mark.parametrize("mirostat", [1, 2])
def test_mirostat_at_temperature_0_is_greedy(mirostat: int) -> None:
    """As in llama-cpp-python, where temperature 0 is asked first."""
    sampler = fake_sampler(Sampling(mirostat=mirostat, temperature=0.0), N)
    assert not sampler.draws_itself
    assert fake_sampler(Sampling(mirostat=mirostat), N).draws_itself
    scores = scores_of(1)
    assert law_of(sampler, scores) == {int(scores.argmax()): 0.0}
