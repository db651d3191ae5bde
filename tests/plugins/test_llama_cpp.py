"""llama-cpp-python itself as host: EFT and the tuned model inside a Llama.

The Llama here is the real one, on the bundled family.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from llama_cpp import LogitsProcessorList
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from eftlite import EFT
from eftlite.errors import Cancelled, ContextError, EngineError, InputError, VocabularyError
from eftlite.llama_cpp_plugins import EFTLogitsProcessor, TunedDraftModel
from eftlite.settings import Family, Knobs, Sampling
from tests.fakes import assert_same_text, composite_scores, watched_decodes
from tests.tiny_gguf import write_family

N_CTX = 256
GREEDY = Sampling(temperature=0.0)
F16 = 0.02  # of log-probabilities, between evaluations in batches of other sizes with f16 weights and caches
OPTIONS: dict[str, Any] = {"n_threads": 1, "flash_attn": False}


def open_llama(path: str | Path, **options: Any) -> llama_cpp.Llama:
    """A Llama on one thread."""
    return llama_cpp.Llama(str(path), n_ctx=N_CTX, n_threads=1, n_threads_batch=1, verbose=False, **options)


@pytest.fixture(scope="module")
def llama(demo_family: dict[str, Path]) -> Iterator[llama_cpp.Llama]:
    """The bundled base, with logits of every token, as draft models want them."""
    made = open_llama(demo_family["base"], logits_all=True)
    yield made
    made.close()


@pytest.fixture(scope="module")
def processor(llama: llama_cpp.Llama) -> Iterator[EFTLogitsProcessor]:
    """The bundled small models beside it; tests leave its knobs as they found them."""
    with EFTLogitsProcessor(llama, **OPTIONS) as made:
        yield made


@pytest.fixture(scope="module")
def native() -> Iterator[EFT]:
    """The engine that the processor is compared with."""
    with EFT(n_ctx=N_CTX, speculative=False, **OPTIONS) as made:
        yield made


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Path]:
    """A tiny family's files."""
    return write_family(tmp_path, seed=3)


def questions(n: int) -> list[list[dict[str, str]]]:
    """Conversations of the bundled question set."""
    listed = json.loads(files("eftlite.demo").joinpath("questions.json").read_text(encoding="utf-8"))["questions"]
    return [question["messages"] for question in listed[:n]]


def ids_by(llama: llama_cpp.Llama, processor: EFTLogitsProcessor, prompt: list[int], n: int = 24) -> list[int]:
    """The ids of a greedy answer of the Llama with the processor, up to an end token."""
    found = []
    for token in llama.generate(prompt, temp=0.0, logits_processor=LogitsProcessorList([processor])):
        found.append(token)
        if len(found) == n or token == llama.token_eos():
            break
    return found


def own_rows(processor: EFTLogitsProcessor, llama: llama_cpp.Llama, ids: list[int]) -> Any:
    """(n_vocab,) float32 what the processor makes of the base's row after these ids, called by hand."""
    llama.reset()  # type: ignore[no-untyped-call]  # llama_cpp's
    llama.eval(ids)
    row = llama.scores[len(ids) - 1].copy()
    assert processor(np.array(ids, np.intc), row) is row
    return row


def normal(row: Any) -> Any:
    """Log-probabilities, float64."""
    row = np.asarray(row, np.float64)
    return row - np.logaddexp.reduce(row)


# ---- the logits processor


def test_the_same_greedy_text_as_the_native_engine(
    llama: llama_cpp.Llama, processor: EFTLogitsProcessor, native: EFT
) -> None:
    processors = LogitsProcessorList([processor])
    answers = []
    for messages in questions(50):
        prompt = native.chat_prompts(messages)[0]
        theirs: Any = llama.create_completion(prompt, max_tokens=32, temperature=0.0, logits_processor=processors)
        ours: Any = native.create_completion(prompt, max_tokens=32, temperature=0.0)
        texts = [(one["choices"][0]["text"], one["choices"][0]["finish_reason"]) for one in (theirs, ours)]
        assert texts[0] == texts[1]
        answers.append(texts[0][0])
    assert len(set(answers)) > 25  # they are answers to different questions


@pytest.mark.parametrize(
    "knobs",
    [
        Knobs((1.0, 0.0)),
        Knobs((0.5, 0.5)),
        Knobs((0.0, 0.0)),
        Knobs((1.0, 0.0), beta=0.0),
        Knobs((1.0, 0.0), beta=1.5, conservative_p=0.9),
    ],
)
def test_the_law_is_the_native_engines(
    llama: llama_cpp.Llama, processor: EFTLogitsProcessor, native: EFT, knobs: Knobs
) -> None:
    before = processor.knobs
    ids = native.tokenize(b"The town of Dunmoor lies", add_bos=True)
    try:
        processor.knobs = knobs
        for n in (3, len(ids), len(ids) - 2):  # forwards, and back
            expected = composite_scores(native, [ids[:n]] * len(native.members), knobs)
            assert normal(own_rows(processor, llama, ids[:n])) == pytest.approx(normal(expected), abs=1e-4)
    finally:
        processor.knobs = before


def test_what_follows_in_the_chain_sees_the_composite(
    llama: llama_cpp.Llama, processor: EFTLogitsProcessor, native: EFT
) -> None:
    """Penalties, grammar and further processors are Llama's own."""
    prompt = native.chat_prompts(questions(1)[0])[0]
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 0.0}
    for extra in ("repeat_penalty", "presence_penalty"):
        options[extra] = 1.5
        theirs: Any = llama.create_completion(prompt, logits_processor=LogitsProcessorList([processor]), **options)
        ours: Any = native.create_completion(prompt, **options)
        assert theirs["choices"][0]["text"] == ours["choices"][0]["text"]
    seen = []

    def look(_: object, row: Any) -> Any:
        seen.append(row.copy())
        return row

    next(llama.generate(prompt, temp=0.0, logits_processor=LogitsProcessorList([processor, look])))
    expected = composite_scores(native, [prompt] * len(native.members), native.knobs)
    assert normal(seen[0]) == pytest.approx(normal(expected), abs=F16)


def test_only_what_is_new_is_evaluated(llama: llama_cpp.Llama, processor: EFTLogitsProcessor) -> None:
    """By the small models, which are what is watched: Llama calls llama.cpp by another name."""
    prompt = list(range(20, 60))
    ids_by(llama, processor, prompt, 4)
    with watched_decodes() as seen:
        answer = ids_by(llama, processor, prompt, 4)
    assert seen.sizes == [1, 1] * 4  # the prompt again: its last token only
    with watched_decodes() as seen:
        ids_by(llama, processor, [*prompt, *answer, 7, 8], 2)
    assert seen.sizes == [3, 3, 1, 1]  # a second turn; the answer's last token was drawn, never evaluated
    with watched_decodes() as seen:
        ids_by(llama, processor, [*prompt[:30], 9], 1)
    assert seen.sizes == [1, 1]  # a text that was cut
    processor._small.ensemble.validate(0)


def test_a_member_that_the_knobs_leave_out_sleeps(llama: llama_cpp.Llama, processor: EFTLogitsProcessor) -> None:
    before = processor.knobs
    prompt = list(range(100, 120))
    try:
        processor.knobs = before.with_alpha(0, 0.0)
        with watched_decodes() as seen:
            alone = ids_by(llama, processor, prompt, 4)
        assert seen.sizes == []
        bare = [token for _, token in zip(range(4), llama.generate(prompt, temp=0.0), strict=False)]
        assert alone == bare[: len(alone)]
        processor.knobs = before  # turned up in the middle: the others catch up in one batch
        with watched_decodes() as seen:
            ids_by(llama, processor, [*prompt, *alone], 1)
        assert seen.sizes == [20 + len(alone)] * 2
    finally:
        processor.knobs = before


def test_without_it_the_llama_is_the_base(llama: llama_cpp.Llama, processor: EFTLogitsProcessor) -> None:
    prompt = llama.tokenize(b"The town of")
    with_it = ids_by(llama, processor, prompt, 12)
    bare = [token for _, token in zip(range(12), llama.generate(prompt, temp=0.0), strict=False)]
    assert ids_by(llama, processor, prompt, 12) == with_it != bare


def test_llama_drops_processors_beside_a_bias(llama: llama_cpp.Llama, processor: EFTLogitsProcessor) -> None:
    """The manual warns of it; when this fails, a newer Llama does better and the warning can go."""
    seconds = processor.seconds
    both = LogitsProcessorList([processor])
    llama.create_completion([1, 30, 31], max_tokens=2, logits_processor=both, logit_bias={40: 1.0})
    assert processor.seconds == seconds


# ---- drafts are verified by rows that come with the whole draft's ids


@pytest.mark.parametrize("n_draft", [1, 4])
def test_drafts_change_no_text(
    llama: llama_cpp.Llama,
    processor: EFTLogitsProcessor,
    native: EFT,
    demo_family: dict[str, Path],
    n_draft: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tuned model drafts, prompt look-up does, and one that is always wrong."""
    tuned = TunedDraftModel(str(demo_family["tuned"]), n_draft=n_draft, n_ctx=N_CTX, **OPTIONS)
    wrong: Any = lambda ids: np.full(n_draft, ids[0], np.intc)  # noqa: E731  # as short as the thing is
    for messages in questions(6):
        prompt = native.chat_prompts(messages)[0]
        expected = ids_by(llama, processor, prompt)
        for draft_model in (tuned, LlamaPromptLookupDecoding(num_pred_tokens=n_draft), wrong):
            monkeypatch.setattr(llama, "draft_model", draft_model)
            got = ids_by(llama, processor, prompt)
            monkeypatch.setattr(llama, "draft_model", None)
            assert_same_text(native, [prompt] * len(native.members), expected, got, GREEDY)
            processor._small.ensemble.validate(0)
    tuned.close()


def test_a_draft_costs_each_member_one_decode(
    llama: llama_cpp.Llama, processor: EFTLogitsProcessor, native: EFT, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = native.chat_prompts(questions(1)[0])[0]
    expected = ids_by(llama, processor, prompt, 7)
    oracle: Any = lambda ids: np.array(expected[len(ids) - len(prompt) :][:3], np.intc)  # noqa: E731  # as above
    monkeypatch.setattr(llama, "draft_model", oracle)
    with watched_decodes() as seen:
        assert ids_by(llama, processor, prompt, 5) == expected[:5]
    assert seen.sizes == [1, 1, 4, 4]


def test_the_tuned_model_drafts_for_a_llama_of_itself(
    demo_family: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every draft is accepted: nine tokens take three decodes."""
    draft = TunedDraftModel(str(demo_family["tuned"]), n_draft=3, **OPTIONS)
    llama = open_llama(demo_family["tuned"], draft_model=draft)
    plain = open_llama(demo_family["tuned"])
    prompt = llama.tokenize(b"<|user|>Where is Kelworth?<|end|><|assistant|>", special=True)
    expected = [token for _, token in zip(range(9), plain.generate(prompt, temp=0.0), strict=False)]
    sizes, evaluate = [], llama.eval

    def watched(ids: Any) -> None:
        sizes.append(len(ids))
        evaluate(ids)

    monkeypatch.setattr(llama, "eval", watched)
    got = [token for _, token in zip(range(9), llama.generate(prompt, temp=0.0), strict=False)]
    assert got == expected
    assert sizes == [len(prompt), 4, 4]
    llama.close()
    plain.close()
    draft.close()


def test_drafts_end_with_the_answer_and_with_the_context(demo_family: dict[str, Path]) -> None:
    draft = TunedDraftModel(str(demo_family["tuned"]), n_draft=40, n_ctx=64, **OPTIONS)
    ids = np.array([1, *range(20, 60)], np.intc)
    n_ctx = draft._engine.ensemble.n_ctx
    with EFT(str(demo_family["tuned"]), n_ctx=64, **OPTIONS) as eft:
        question = eft.chat_prompts(questions(1)[0])[0]
        answer = [event.id for event in eft.complete(question, sampling=GREEDY)]
    assert draft(np.array(question, np.intc)).tolist() == answer
    assert len(answer) < 40
    assert len(draft(np.resize(ids, n_ctx - 1))) <= 1
    assert draft(np.resize(ids, n_ctx)).size == draft(np.resize(ids, n_ctx + 9)).size == 0
    assert draft(ids[:0]).dtype == np.intc
    with pytest.raises(InputError, match="draft_model: expected token ids below"):
        draft(np.array([1, 1 << 20], np.intc))
    draft.close()


# ---- what goes wrong is raised, not printed


@pytest.mark.parametrize("error", [EngineError("a", code=-3), Cancelled("b"), KeyboardInterrupt()])
def test_an_error_reaches_the_caller(
    llama: llama_cpp.Llama,
    processor: EFTLogitsProcessor,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """ctypes would print it and go on with the base's own row."""
    prompt = list(range(30, 40))
    expected = ids_by(llama, processor, prompt, 4)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(processor._small, "follow", fail)
        with pytest.raises(type(error)):
            ids_by(llama, processor, prompt, 4)
        with pytest.raises(type(error)):  # by hand, too
            processor(np.array(prompt, np.intc), np.zeros(llama.n_vocab(), np.float32))
    assert ids_by(llama, processor, prompt, 4) == expected
    assert not capfd.readouterr().err


def test_a_full_context_is_told(llama: llama_cpp.Llama, processor: EFTLogitsProcessor) -> None:
    with pytest.raises(ContextError):
        processor(np.ones(N_CTX + 1, np.intc), np.zeros(llama.n_vocab(), np.float32))
    filled: Any = llama.create_completion(
        [1] * (N_CTX - 3), max_tokens=None, temperature=0.0, logits_processor=LogitsProcessorList([processor])
    )
    assert filled["usage"]["total_tokens"] <= N_CTX
    assert processor(np.ones(N_CTX, np.intc), np.zeros(llama.n_vocab(), np.float32)).shape == (llama.n_vocab(),)


def test_wrong_arguments(llama: llama_cpp.Llama, demo_family: dict[str, Path], small: dict[str, Path]) -> None:
    tuned = str(demo_family["tuned"])
    for options, words in (
        ({"tuned": tuned}, "reference: expected tuned and reference together"),
        ({"adapter": str(demo_family["lora"])}, "family: expected a delta"),
        ({"family": Family("f", tuned)}, "family: expected a delta"),
        ({"n_gpu_layer": 1}, "unknown option"),
        ({"alpha": -1.0}, "alpha: expected"),
    ):
        with pytest.raises(InputError, match=words):
            EFTLogitsProcessor(llama, **options)
    with pytest.raises(VocabularyError, match="base and tuned do not share"):
        EFTLogitsProcessor(llama, str(small["tuned"]), str(small["reference"]), **OPTIONS)
    with pytest.raises(InputError, match="n_draft: expected"):
        TunedDraftModel(tuned, n_draft=0)


# ---- families that are not quite alike


def test_an_adapter_makes_the_tuned_model(
    llama: llama_cpp.Llama, processor: EFTLogitsProcessor, demo_family: dict[str, Path]
) -> None:
    options: dict[str, Any] = {"reference": str(demo_family["reference"]), "adapter": str(demo_family["lora"])}
    ids = list(range(40, 60))
    with (
        EFTLogitsProcessor(llama, **options, **OPTIONS) as lora,
        EFT(str(demo_family["base"]), **options, **OPTIONS) as eft,
    ):
        assert len({member.model for member in lora._small.ensemble.members}) == 1
        expected = composite_scores(eft, [ids] * 3, eft.knobs)
        assert normal(own_rows(lora, llama, ids)) == pytest.approx(normal(expected), abs=1e-4)
        assert ids_by(llama, processor, ids, 4) == ids_by(llama, processor, ids, 4)  # two on one Llama
    assert "sample" in vars(llama)  # the first one's watch is still there


def test_padding_is_never_drawn(tmp_path: Path) -> None:
    paths = write_family(tmp_path, seed=2, base_n_pad=32)
    llama = open_llama(paths["base"], logits_all=True)
    with EFTLogitsProcessor(llama, str(paths["tuned"]), str(paths["reference"]), **OPTIONS) as processor:
        assert any("padding" in note for note in processor.notes)
        row = own_rows(processor, llama, [1, 2, 3])
        assert np.all(np.isneginf(row[512:]))
        assert np.isfinite(row).sum() > 400
    llama.close()


def test_the_bases_end_token_stands_for_all(llama: llama_cpp.Llama, processor: EFTLogitsProcessor) -> None:
    """Llama stops at its own end tokens only."""
    foreign, row = np.array([5, 6], np.int32), np.log(np.arange(1.0, 9.0, dtype=np.float32))
    before = processor._foreign_ends, processor._end
    try:
        processor._foreign_ends, processor._end = foreign, 0
        processor._move_ends(row)
    finally:
        processor._foreign_ends, processor._end = before
    assert np.exp(row) == pytest.approx([1 + 6 + 7, 2, 3, 4, 5, 0, 0, 8])


# ---- its life


def test_close_leaves_the_llama_as_it_was(demo_family: dict[str, Path]) -> None:
    llama = open_llama(demo_family["base"])
    processor = EFTLogitsProcessor(llama, **OPTIONS)
    assert processor.seconds == 0.0
    ids_by(llama, processor, [1, 30, 31], 2)
    assert processor.seconds > 0.0
    processor.close()
    assert "sample" not in vars(llama)
    assert len(list(zip(range(2), llama.generate([1, 30, 31]), strict=False))) == 2
    llama.close()


def test_a_chat_has_the_tuned_models_template(
    llama: llama_cpp.Llama, processor: EFTLogitsProcessor, native: EFT
) -> None:
    template = processor.chat_template
    assert template
    eos = llama.detokenize([llama.token_eos()], special=True).decode()
    handler = Jinja2ChatFormatter(template, eos_token=eos, bos_token="").to_chat_handler()
    messages: Any = questions(1)[0]
    options: dict[str, Any] = {"messages": messages, "max_tokens": 24, "temperature": 0.0}
    theirs: Any = handler(llama=llama, logits_processor=LogitsProcessorList([processor]), **options)
    ours: Any = native.create_chat_completion(**options)
    assert theirs["choices"][0]["message"]["content"] == ours["choices"][0]["message"]["content"]
