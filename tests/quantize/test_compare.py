"""Comparisons of tiny models: figures against whole rows, groups, stored bases, and pairs that do not go together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eftlite.errors import EngineError, InputError, ModelFileError, VocabularyError
from eftlite.settings import ModelSettings
from eftlite_quantize import compare as module
from eftlite_quantize.compare import Plan, compare, compare_with_stored
from eftlite_quantize.comparison import Comparison
from eftlite_quantize.evaluate import Evaluator, Rows
from eftlite_quantize.klbase import BaseReader
from eftlite_quantize.metrics import FIGURES
from eftlite_quantize.texts import text_tokens
from tests.quantize import perplexity
from tests.tiny_gguf import CHAT_TEMPLATE, gpt2_texts, write_model

N_CTX = 32
QUIET = Plan(n_ctx=N_CTX, bench=False, settings=ModelSettings(n_threads=1))
TEXT = " ".join(f"the {adjective} fox jumps over {n} lazy dogs" for n in range(8) for adjective in ("quick", "slow"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two variants of it, and a text."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "base.gguf", seed=1, chat_template=CHAT_TEMPLATE)
    write_model(folder / "near.gguf", seed=1, noise=0.02)
    write_model(folder / "far.gguf", seed=1, noise=0.3, dtype="f16")
    write_model(folder / "bos.gguf", seed=1, tokenizer="llama")
    write_model(folder / "bos-near.gguf", seed=1, tokenizer="llama", noise=0.05)
    (folder / "text.txt").write_text(TEXT + "\n")
    return folder


def logits(path: Path, tokens: list[int], add_bos: bool, bos: int) -> tuple[Rows, list[int]]:
    """(n, n_vocab) of every scored position, and what follows each."""
    found, targets = [], []
    with Evaluator(path, N_CTX, QUIET.settings) as evaluator:
        for start in range(0, len(tokens) - N_CTX + 1, N_CTX):
            ids = tokens[start : start + N_CTX]
            targets += ids[N_CTX // 2 + 1 :]
            read = [bos, *ids[1:-1]] if add_bos else ids[:-1]
            found += [piece.copy() for piece in evaluator.rows(read, N_CTX // 2)]
    return np.concatenate(found), targets


def values(found: Comparison, index: int = 0) -> dict[str, float]:
    """The figures of a variant."""
    return {name: figure.value for name, figure in found.variants[index].figures.items()}


# ---- figures


@pytest.mark.parametrize("family", ["", "bos"])
def test_figures_are_those_of_whole_rows(folder: Path, family: str) -> None:
    base, *others = ("bos", "bos-near") if family else ("base", "near", "far")
    paths = [folder / f"{name}.gguf" for name in (base, *others)]
    found = compare(paths[0], paths[1:], folder / "text.txt", QUIET)
    with Evaluator(paths[0], N_CTX) as evaluator:
        tokens = text_tokens(evaluator.model, folder / "text.txt").tolist()
        bos = evaluator.model.bos
    scored = perplexity.positions(tokens, N_CTX, bool(family), bos)
    assert (found.n_chunks, found.n_scored) == (len(tokens) // N_CTX, len(scored))
    base_rows, targets = logits(paths[0], tokens, bool(family), bos)
    assert targets == [target for _, target in scored]
    for index, path in enumerate(paths[1:]):
        rows, _ = logits(path, tokens, bool(family), bos)
        expected = perplexity.statistics(perplexity.log_softmax(base_rows), perplexity.log_softmax(rows), targets)
        for name, value in values(found, index).items():
            assert value == pytest.approx(expected[name], rel=2e-5, abs=2e-6), name
    assert found.base.figures["ppl"] == found.variants[0].figures["ppl_base"]


def test_order_and_facts(folder: Path) -> None:
    found = compare(folder / "base.gguf", [folder / "far.gguf", folder / "near.gguf"], folder / "text.txt", QUIET)
    assert [one.name for one in (found.base, *found.variants)] == ["base", "far", "near"]
    assert [one.quantization for one in found.variants] == ["F16", "F32"]
    assert values(found, 0)["kld_mean"] > 10 * values(found, 1)["kld_mean"] > 0
    facts = {name: figure.value for name, figure in found.variants[0].facts.items()}
    assert list(facts) == ["size_bytes", "bits_per_weight"]
    assert 16 < facts["bits_per_weight"] < 17
    assert json.loads(json.dumps(found.as_json()))["variants"][0]["kld_mean"]["value"] == values(found)["kld_mean"]


def test_a_reference_alone_is_measured(folder: Path) -> None:
    both = compare(folder / "base.gguf", [folder / "near.gguf"], folder / "text.txt", QUIET)
    alone = compare(folder / "base.gguf", [], folder / "text.txt", QUIET)
    assert alone.variants == ()
    assert alone.base == both.base


def test_a_model_beside_itself_does_not_differ(folder: Path) -> None:
    found = values(compare(folder / "base.gguf", [folder / "base.gguf"], folder / "text.txt", QUIET))
    assert (found["kld_max"], found["dp_rms"], found["same_top"], found["ppl_ratio"]) == (0, 0, 100, 1)


def test_fewer_chunks(folder: Path) -> None:
    plan = Plan(n_ctx=N_CTX, n_chunks=2, bench=False)
    found = compare(folder / "base.gguf", [folder / "near.gguf"], folder / "text.txt", plan)
    assert (found.n_chunks, found.n_scored) == (2, 30)
    assert any("30 predictions are few" in note for note in found.notes)


def test_conversations(folder: Path, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "how many dogs"}, {"role": "assistant", "content": "seven lazy ones"}]
    (tmp_path / "talks.jsonl").write_text("\n".join([json.dumps(talk)] * 6))
    rendered = "<|user|>how many dogs<|end|><|assistant|>seven lazy ones<|end|>" * 6
    plan = Plan(n_ctx=N_CTX, chat=True, bench=False)
    found = compare(folder / "base.gguf", [folder / "near.gguf"], tmp_path / "talks.jsonl", plan)
    with Evaluator(folder / "base.gguf", N_CTX) as evaluator:
        n_tokens = len(evaluator.model.tokenize(rendered.encode(), special=True))
    assert found.n_chunks == n_tokens // N_CTX


def test_speeds_are_measured(folder: Path) -> None:
    found = compare(folder / "base.gguf", [folder / "near.gguf"], folder / "text.txt", Plan(n_ctx=N_CTX))
    for one in (found.base, *found.variants):
        assert one.facts["pp_ts"].value > 0
        assert one.facts["tg_ts"].value > 0


def test_a_context_longer_than_trained_is_noted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text((TEXT + " ") * 8)
    found = compare(folder / "base.gguf", [], tmp_path / "long.txt", Plan(n_ctx=300, bench=False))
    assert any("a model was trained on 256 tokens, and chunks have 300" in note for note in found.notes)


def test_progress_is_told(folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = compare(
        folder / "base.gguf", [folder / "near.gguf"], folder / "text.txt", QUIET, report=lambda *what: told.append(what)
    )
    assert [what[1:] for what in told if what[0] == "comparing"] == [(i, found.n_chunks) for i in range(found.n_chunks)]
    assert {what[0] for what in told} == {"loading base", "loading near", "comparing"}


# ---- groups


def test_groups_change_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = folder / "base.gguf", [folder / "near.gguf", folder / "far.gguf"], folder / "text.txt", QUIET
    together = compare(*arguments, save=tmp_path / "together")
    monkeypatch.setattr(module, "room", lambda settings: 0)
    told: list[str] = []
    apart = compare(*arguments, save=tmp_path / "apart", report=lambda what, done, total: told.append(what))
    assert apart == together
    assert (tmp_path / "apart").read_bytes() == (tmp_path / "together").read_bytes()
    assert {"comparing, group 1 of 2", "comparing, group 2 of 2"} < set(told)


# ---- stored bases


@pytest.fixture
def stored(folder: Path, tmp_path: Path) -> Path:
    """The base's log-probabilities."""
    compare(folder / "base.gguf", [], folder / "text.txt", QUIET, save=tmp_path / "base.kld")
    return tmp_path / "base.kld"


def test_a_stored_base_gives_nearly_the_same_figures(folder: Path, stored: Path) -> None:
    live = compare(folder / "base.gguf", [folder / "far.gguf"], folder / "text.txt", QUIET)
    found = compare_with_stored(stored, [folder / "far.gguf"], Plan(bench=False, settings=QUIET.settings))
    assert (found.n_ctx, found.n_chunks, found.digest) == (N_CTX, live.n_chunks, live.digest)
    assert found.base.name == "base.kld"
    for name, value in values(live).items():
        if not name.startswith(("ppl_", "ln_", "cor_")):  # the file has no probability below max - 16
            assert values(found)[name] == pytest.approx(value, rel=5e-3, abs=5e-3), name
    assert values(found)["ppl"] == values(live)["ppl"]


def test_bos_is_not_stored(folder: Path, tmp_path: Path) -> None:
    """As llama-perplexity does it: the file has the text, and each reader puts its BOS in."""
    plan = Plan(n_ctx=N_CTX, bench=False)
    live = compare(folder / "bos.gguf", [folder / "bos-near.gguf"], folder / "text.txt", plan, save=tmp_path / "b.kld")
    with BaseReader(tmp_path / "b.kld") as reader, Evaluator(folder / "bos.gguf", N_CTX) as evaluator:
        tokens = text_tokens(evaluator.model, folder / "text.txt")
        np.testing.assert_array_equal(reader.tokens.ravel(), tokens[: reader.tokens.size])
    found = compare_with_stored(tmp_path / "b.kld", [folder / "bos-near.gguf"], Plan(bench=False))
    assert values(found)["ppl"] == values(live)["ppl"]
    assert values(found)["kld_mean"] == pytest.approx(values(live)["kld_mean"], rel=0.05)


def test_a_part_of_a_stored_base(folder: Path, stored: Path) -> None:
    found = compare_with_stored(stored, [folder / "near.gguf"], Plan(n_chunks=2, bench=False))
    assert found.n_chunks == 2


def test_another_context_than_the_stored_ones_is_refused(folder: Path, stored: Path) -> None:
    with pytest.raises(InputError, match=r"expected 32 as in base\.kld, got 64"):
        compare_with_stored(stored, [folder / "near.gguf"], Plan(n_ctx=64, bench=False))
    compare_with_stored(stored, [folder / "near.gguf"], Plan(n_ctx=32, n_chunks=1, bench=False))


def test_another_vocabulary_than_the_stored_one_is_refused(stored: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", seed=1, n_vocab=300)
    with pytest.raises(VocabularyError, match=r"other: expected the vocabulary of base\.kld, 512 tokens, got 300"):
        compare_with_stored(stored, [other], Plan(bench=False))


def test_an_interrupted_run_leaves_no_stored_base(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(what: str, done: int, _: int) -> None:
        if (what, done) == ("comparing", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(folder / "base.gguf", [], folder / "text.txt", QUIET, save=tmp_path / "base.kld", report=stop)
    assert list(tmp_path.iterdir()) == []


# ---- what does not go together


def test_a_differing_token_is_named(folder: Path, tmp_path: Path) -> None:
    texts = gpt2_texts()
    texts[300], texts[301] = texts[301], texts[300]
    other = write_model(tmp_path / "other.gguf", seed=1, texts=texts)
    with pytest.raises(VocabularyError, match=r"token 300 is .* in base and .* in other") as found:
        compare(folder / "base.gguf", [folder / "near.gguf", other], folder / "text.txt", QUIET)
    assert found.value.token_id == 300


def test_padding_that_differs_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", seed=1, n_pad=8)
    with pytest.raises(VocabularyError, match="base has 512 tokens and other 520"):
        compare(folder / "base.gguf", [other], folder / "text.txt", QUIET)


def test_short_texts_and_bad_files_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(InputError, match="at least 64 tokens"):
        compare(folder / "base.gguf", [], tmp_path / "short.txt", QUIET)
    with pytest.raises(InputError, match=r"base.gguf: expected (UTF-8 )?text"):
        compare(folder / "base.gguf", [], folder / "base.gguf", QUIET)
    with pytest.raises(ModelFileError, match=r"text.txt: "):
        compare(folder / "base.gguf", [folder / "text.txt"], folder / "text.txt", QUIET)


def test_files_of_one_name_are_told_apart_by_their_paths(folder: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "base.gguf", seed=1, noise=0.1)
    found = compare(folder / "base.gguf", [other, folder / "near.gguf"], folder / "text.txt", QUIET)
    assert [one.name for one in found.variants] == [str(other), "near"]


@pytest.mark.parametrize("broken", ["base", "near"])
def test_a_model_that_computes_no_numbers_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    rows = Evaluator.rows

    def spoiled(self: Evaluator, tokens: NDArray[np.int32], first: int) -> Iterator[Rows]:
        for piece in rows(self, tokens, first):
            yield np.full_like(piece, math.nan) if self.name == broken else piece

    monkeypatch.setattr(Evaluator, "rows", spoiled)
    with pytest.raises(EngineError, match=f"^{broken}: expected probabilities in chunk 1"):
        compare(folder / "base.gguf", [folder / "near.gguf"], folder / "text.txt", QUIET)


def test_models_are_closed_whatever_happens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    start = Evaluator.__init__

    def noted(self: Evaluator, *arguments: Any) -> None:
        start(self, *arguments)
        opened.append(self)

    def stop(what: str, done: int, _: int) -> None:
        if (what, done) == ("comparing", 1):
            raise KeyboardInterrupt

    monkeypatch.setattr(Evaluator, "__init__", noted)
    with pytest.raises(KeyboardInterrupt):
        compare(folder / "base.gguf", [folder / "near.gguf"], folder / "text.txt", QUIET, report=stop)
    assert len(opened) == 2
    for one in opened:
        with pytest.raises(EngineError, match="closed"):
            _ = one.model.handle


def test_every_figure_is_there(folder: Path) -> None:
    found = compare(folder / "base.gguf", [folder / "near.gguf"], folder / "text.txt", QUIET)
    assert list(found.variants[0].figures) == list(FIGURES)
