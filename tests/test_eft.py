"""The public object, on real models: the same answers as llama_cpp.Llama, repeatable, stoppable, within bounds."""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from llama_cpp.llama_grammar import LlamaGrammar

from eftlite import EFT
from eftlite.errors import CacheFullError, Cancelled, ContextError, EngineError, InputError, ModelFileError
from eftlite.settings import Delta, Family, Knobs, Limits, ModelSettings, Sampling, Speculation
from tests.conftest import ROOT
from tests.fakes import (
    GREEDY,
    PLAIN,
    WHOLE,
    assert_same_text,
    close_family,
    failing_decode,
    ids_of,
    random_drafter,
    tiny_eft,
    use_drafter,
    watched_decodes,
)
from tests.tiny_gguf import CHAT_TEMPLATE, write_family, write_model

FOUR = Speculation(n_draft=4)
HOT = Sampling(temperature=1.0, seed=3, **WHOLE)
HELLO = [{"role": "user", "content": "hello"}]
F16 = 0.02  # of log-probabilities, between evaluations in batches of other sizes with f16 weights and caches
END = 511  # <|end|> of the tiny models


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny family's files."""
    return close_family(tmp_path_factory.mktemp("eft"))


@pytest.fixture(scope="module")
def eft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EFT]:
    """A tiny family with two slots; tests leave its knobs as they found them."""
    with tiny_eft(tmp_path_factory.mktemp("eft"), n_slots=2) as made:
        yield made


def text_of(eft: EFT, prompt: str = "hello", n: int = 24, sampling: Sampling = HOT, **options: Any) -> str:
    """An answer's text; the caches are checked afterwards."""
    text = eft.complete(prompt, sampling=sampling, limits=Limits(n), **options).text()
    eft.validate()
    return text


# ---- the same as llama_cpp.Llama


@pytest.fixture(scope="module")
def both(demo_family: dict[str, Path]) -> Iterator[tuple[EFT, llama_cpp.Llama]]:
    """The bundled base in both, on one thread and with the same kernels."""
    path = str(demo_family["base"])
    theirs = llama_cpp.Llama(path, n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
    with EFT(path, n_ctx=256, n_threads=1, flash_attn=False) as ours:
        yield ours, theirs
    theirs.close()


CALLS: dict[str, Callable[..., Any]] = {
    "completion": lambda model, **options: model.create_completion("The town of", max_tokens=24, **options),
    "call": lambda model, **options: model("A river is", max_tokens=24, **options),
    "stopped": lambda model, **options: model("The town of", max_tokens=24, stop=["e"], **options),
    "echo": lambda model, **options: model("The town of", max_tokens=8, echo=True, **options),
    "chat": lambda model, **options: model.create_chat_completion(HELLO, max_tokens=24, **options),
}


def shape(value: Any) -> Any:
    """Keys and kinds of values, in the order of a list; None stands for any kind."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items() if key not in {"eft", "prompt_tokens_details"}}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, int | float | np.floating) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def content(response: Any) -> Any:
    """Text and finish reason of a whole response."""
    choice = response["choices"][0]
    return choice.get("text") or choice["message"]["content"], choice["finish_reason"]


@pytest.mark.parametrize("name", CALLS)
def test_whole_answers_are_llamas(both: tuple[EFT, llama_cpp.Llama], name: str) -> None:
    ours, theirs = (CALLS[name](model, temperature=0.0) for model in both)
    assert content(ours) == content(theirs)
    assert shape(ours) == shape(theirs)
    assert ours["usage"]["prompt_tokens"] == theirs["usage"]["prompt_tokens"]
    assert set(ours) == set(theirs) | {"eft"}


@pytest.mark.parametrize("name", ["completion", "call", "stopped", "chat"])
def test_streams_are_llamas(both: tuple[EFT, llama_cpp.Llama], name: str) -> None:
    ours, theirs = (list(CALLS[name](model, temperature=0.0, stream=True)) for model in both)
    for part in ("text", "delta"):
        texts = [[chunk["choices"][0].get(part) for chunk in chunks] for chunks in (ours, theirs)]
        joined = ["".join(t if isinstance(t, str) else (t or {}).get("content", "") for t in side) for side in texts]
        assert joined[0] == joined[1]
    assert shape(ours[0]) == shape(theirs[0])
    assert shape(ours[1]) == shape(theirs[1])
    assert shape(ours[-1]) == shape(theirs[-1])
    assert ours[-1]["choices"][0]["finish_reason"] == theirs[-1]["choices"][0]["finish_reason"]
    assert [c["choices"][0]["finish_reason"] for c in ours[:-1]] == [None] * (len(ours) - 1)


def test_logprobs_are_llamas(both: tuple[EFT, llama_cpp.Llama]) -> None:
    """Legacy lists and chat entries: the same tokens, numbers that differ by rounding only."""
    ours, theirs = (CALLS["completion"](m, temperature=0.0, logprobs=3)["choices"][0]["logprobs"] for m in both)
    assert set(ours) == set(theirs)
    assert ours["tokens"] == theirs["tokens"]
    assert ours["token_logprobs"] == pytest.approx([float(x) for x in theirs["token_logprobs"]], abs=F16)
    for a, b in zip(ours["top_logprobs"], theirs["top_logprobs"], strict=True):
        assert list(a.values()) == pytest.approx([float(x) for x in b.values()][:3], abs=F16)
    options = {"temperature": 0.0, "logprobs": True, "top_logprobs": 2}
    chats = [CALLS["chat"](model, **options)["choices"][0]["logprobs"]["content"] for model in both]
    for a, b in zip(*chats, strict=True):
        assert set(a) == set(b)
        assert a["token"] == b["token"]
        for x, y in zip((a, *a["top_logprobs"]), (b, *b["top_logprobs"]), strict=True):
            assert x["logprob"] == pytest.approx(float(y["logprob"]), abs=F16)


def test_tokens_are_llamas(both: tuple[EFT, llama_cpp.Llama]) -> None:
    ours, theirs = both
    for text in (b"", b"The town of Dunmoor.", "Héllo 🙂\n".encode(), b"<|user|>hi<|end|>"):
        for special in (True, False):
            ids = theirs.tokenize(text, add_bos=True, special=special)
            assert ours.tokenize(text, True, special) == ids
            assert ours.detokenize(ids, special=special) == theirs.detokenize(ids, special=special)


@pytest.mark.parametrize("name", ["create_completion", "create_chat_completion", "__call__", "tokenize", "detokenize"])
def test_signatures_are_llamas(name: str) -> None:
    """Every parameter by name, in the same order, with the same default; ours come after them."""
    theirs = list(inspect.signature(getattr(llama_cpp.Llama, name)).parameters.values())[1:]
    ours = list(inspect.signature(getattr(EFT, name)).parameters.values())[1:]
    if name == "__call__":  # theirs leaves some of create_completion's out, ours is create_completion
        known = {p.name: p for p in ours}
        ours = [known[p.name] for p in theirs]
    assert [p.name for p in ours[: len(theirs)]] == [p.name for p in theirs]
    for a, b in zip(ours, theirs, strict=False):
        assert a.default in (b.default, tuple(b.default) if isinstance(b.default, list) else b.default)
    assert {p.name for p in ours[len(theirs) :]} <= {"knobs"}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("create_completion", {"suffix": "x"}),
        ("create_completion", {"tfs_z": 0.9}),
        ("create_completion", {"stopping_criteria": [len]}),
        ("create_completion", {"logits_processor": [len]}),
        ("create_chat_completion", {"tfs_z": 0.9}),
        ("create_chat_completion", {"logits_processor": [len]}),
        ("create_chat_completion", {"functions": [{"name": "f"}]}),
        ("create_chat_completion", {"function_call": "f"}),
        ("create_chat_completion", {"tool_choice": {"type": "function"}}),
        ("create_chat_completion", {"response_format": {"type": "xml"}}),
        ("create_chat_completion", {"response_format": {"type": "json_object", "schema": {"$ref": "#/nowhere"}}}),
    ],
)
def test_what_cannot_be_honoured_is_refused(eft: EFT, method: str, options: dict[str, Any]) -> None:
    subject = "hello" if method == "create_completion" else HELLO
    with pytest.raises(InputError, match=next(iter(options))):
        getattr(eft, method)(subject, **options)


@pytest.mark.parametrize("method", ["create_completion", "create_chat_completion"])
@pytest.mark.parametrize(
    "options",
    [
        {name: value}
        for name in (
            "temperature", "top_p", "min_p", "typical_p", "frequency_penalty", "presence_penalty", "repeat_penalty",
            "top_k", "seed", "max_tokens", "mirostat_tau", "mirostat_eta", "mirostat_mode", "logit_bias",
        )
        for value in (float("nan"), float("inf"), 1e308, "many", [1], {"a": "b"})
    ] + [{"stop": 5}, {"stop": [5]}, {"stop": [""]}, {"grammar": 5}, {"grammar": "nonsense"}, {"top_k": 2**63}],
    ids=str,
)  # fmt: skip  # a table
def test_wrong_numbers_are_refused_by_name(eft: EFT, method: str, options: dict[str, Any]) -> None:
    subject = "hello" if method == "create_completion" else HELLO
    (name,) = options
    with pytest.raises(InputError, match=name.removesuffix("_mode")):
        getattr(eft, method)(subject, **options)


def test_arguments_do_what_they_say(eft: EFT) -> None:
    def text(**options: Any) -> str:
        return str(content(eft.create_completion("hello", max_tokens=8, **{"temperature": 0.0, **options}))[0])

    free = text()
    first = eft.tokenize(b"hello")
    best = ids_of(eft.complete("hello", sampling=GREEDY, limits=Limits(1)))[0]
    assert text(logit_bias={str(best): -100.0}) != free
    assert text(grammar='root ::= "yes"') == "yes"
    assert text(grammar=LlamaGrammar.from_string('root ::= "no"', verbose=False)) == "no"
    assert text(stop=free[2]) == free[: free.find(free[2])]
    assert text(presence_penalty=100.0) is not None
    assert len(set(ids_of(eft.complete("hello", sampling=Sampling(temperature=0.0, presence_penalty=99.0))))) > 100
    assert text(temperature=1.0, seed=5) == text(temperature=1.0, seed=5)
    assert text(knobs=Knobs((0.0,))) == text_of(eft, n=8, sampling=GREEDY, knobs=eft.knobs_for("base"))
    assert content(eft.create_completion(first, max_tokens=8, temperature=0.0))[0] == free
    answer: Any = eft.create_chat_completion(
        HELLO, temperature=0.0, response_format={"type": "json_object", "schema": {"type": "boolean"}}, model="me"
    )
    assert json.loads(answer["choices"][0]["message"]["content"]) in {True, False}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["model"] == "me"


# ---- making one


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tuned": "t"}, "base: expected a path"),
        ({"base": "b", "tuned": "t"}, "reference: expected tuned and reference together"),
        ({"base": "b", "reference": "t"}, "tuned: expected tuned and reference together"),
        ({"base": "b", "family": "f.toml"}, "family: expected either"),
        ({"prompt_style": "odd"}, "prompt_style: expected one of"),
        ({"n_gpu_layer": 5}, "unknown option 'n_gpu_layer'"),
        ({"settings": ModelSettings(), "n_threads": 1}, "n_threads: expected inside settings"),
        ({"alpha": float("nan")}, "alpha: expected"),
        ({"alpha": -1.0}, "alpha: expected"),
        ({"beta": "1"}, "beta: expected"),
        ({"conservative_p": 2.0}, "conservative_p: expected"),
        ({"n_threads": -1}, "n_threads: expected"),
        ({"speculative": "yes"}, "enabled: expected"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_loaded(
    options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_model_load_from_file", lambda *_: pytest.fail("a model was opened"))
    with pytest.raises(InputError, match=words):
        EFT(**options)


@pytest.mark.parametrize("base", ["", ".", "nowhere.gguf"])
def test_a_base_that_is_no_file(base: str) -> None:
    with pytest.raises(ModelFileError):
        EFT(base)


def test_a_family_by_file_by_object_and_by_parts(files: dict[str, Any], tmp_path: Path) -> None:
    lines = [f"base = {json.dumps(files['base'])}", "[[delta]]", f"tuned = {json.dumps(files['tuned'])}"]
    lines += [f"reference = {json.dumps(files['reference'])}", "alpha = 0.5"]
    (tmp_path / "f.toml").write_text("\n".join(lines))
    whole = Family("f", files["base"], (Delta("tuned", files["tuned"], files["reference"], 0.5),))
    texts = []
    for options in ({"family": tmp_path / "f.toml"}, {"family": whole}, {**files, "alpha": 0.5}):
        with EFT(**options, n_threads=1, speculative=False) as eft:
            assert eft.members == ("base", "tuned", "reference")
            assert eft.knobs.alphas == (0.5,)
            texts.append(text_of(eft))
    assert len(set(texts)) == 1


def test_what_it_is(eft: EFT) -> None:
    assert (eft.n_ctx, eft.n_vocab) == (256, 512)
    assert eft.notes == ()
    assert eft.knobs_for("eft") is eft.knobs
    assert eft.knobs_for("tuned") == Knobs((1.0,), beta=0.0)
    assert eft.knobs_for("reference") == Knobs((0.0,), beta=0.0)
    with pytest.raises(InputError, match="mode: expected"):
        eft.knobs_for("real")


def test_padding_rows_are_cut_and_noted(tmp_path: Path) -> None:
    paths = {part: str(path) for part, path in write_family(tmp_path, seed=2, base_n_pad=32).items()}
    with EFT(paths["base"], paths["tuned"], paths["reference"], n_threads=1, speculative=FOUR) as eft:
        assert eft.n_vocab == 512
        assert any("padding" in note for note in eft.notes)
        assert text_of(eft) == text_of(eft, speculation=PLAIN)


# ---- one mode of one member


@pytest.mark.parametrize("mode", ["base", "tuned", "reference"])
def test_a_member_alone_is_its_own_model(eft: EFT, files: dict[str, Any], mode: str) -> None:
    with EFT(files[mode], n_threads=1) as alone:
        expected = alone.complete("hello", sampling=GREEDY, limits=Limits(16))
        answer = eft.complete("hello", sampling=GREEDY, limits=Limits(16), knobs=eft.knobs_for(mode))
        assert answer.text() == expected.text()
    others = {"base", "tuned", "reference"} - {mode}
    assert {name: answer.statistics.member_s[name] for name in others} == dict.fromkeys(others, 0.0)


def test_the_small_models_sleep_at_alpha_0(eft: EFT) -> None:
    with watched_decodes() as seen:
        answer = eft.complete("something new", sampling=GREEDY, limits=Limits(10), knobs=Knobs((0.0,)))
        answer.text()
    assert seen.sizes == [answer.statistics.n_prompt, *[1] * 9]


def test_knobs_change_between_two_tokens(eft: EFT) -> None:
    """Up from the base alone: the small models catch up; the text is that of a fresh start at that point."""
    before = eft.knobs
    try:
        eft.knobs = Knobs((0.0,))
        answer = eft.complete("the river", sampling=GREEDY, limits=Limits(12))
        stream = iter(answer)
        ids = [next(stream).id for _ in range(5)]
        eft.knobs = before
        ids += [event.id for event in stream]
        eft.validate()
        prompt = eft.tokenize(b"the river")
        rest = ids_of(eft.complete([*prompt, *ids[:5]], sampling=GREEDY, limits=Limits(7), slot=1))
        assert_same_text(eft, [[*prompt, *ids[:5]]] * 3, rest, ids[5:], GREEDY)
        alone = ids_of(eft.complete("the river", sampling=GREEDY, limits=Limits(12), knobs=Knobs((0.0,))))
        assert ids[:5] == alone[:5]
        assert ids != alone
    finally:
        eft.knobs = before


# ---- determinism


def test_the_same_request_twenty_times_in_one_process(eft: EFT) -> None:
    """Also when the cache is warm, in another slot, and with drafts."""
    for sampling in (HOT, GREEDY, Sampling(seed=8)):
        texts = [text_of(eft, sampling=sampling, slot=i % 2) for i in range(20)]
        assert len(set(texts)) == 1
        assert text_of(eft, sampling=sampling, speculation=FOUR) == texts[0]


FRESH = """
import hashlib, json, sys
from eftlite import EFT, Limits, Sampling, Speculation
files = json.loads(sys.argv[1])
eft = EFT(**files, n_threads=1, use_extra_bufts=False, speculative=Speculation(n_draft=4))
whole = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
for sampling in (Sampling(temperature=0.0), Sampling(temperature=1.0, seed=3, **whole), Sampling(seed=8)):
    text = eft.complete("hello", sampling=sampling, limits=Limits(24)).text()
    print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_the_same_request_in_fresh_processes(eft: EFT, files: dict[str, Any]) -> None:
    here = [text_of(eft, sampling=sampling) for sampling in (GREEDY, HOT, Sampling(seed=8))]
    expected = [hashlib.sha256(text.encode()).hexdigest() for text in here]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", FRESH, json.dumps(files)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for child in children:
        out, err = child.communicate(timeout=120)
        assert out.decode().split() == expected, err.decode()


def test_other_seeds_give_other_texts(eft: EFT) -> None:
    texts = {text_of(eft, n=12, sampling=Sampling(temperature=1.0, seed=seed, **WHOLE)) for seed in range(20)}
    assert len(texts) == 20


def test_two_threads_are_compared_with_one(files: dict[str, Any]) -> None:
    """Reported, not demanded: llama.cpp splits sums among threads."""
    texts = {}
    for n_threads in (1, 2):
        with EFT(**files, n_threads=n_threads, speculative=False, n_ctx=64) as eft:
            texts[n_threads] = text_of(eft, n=4, sampling=GREEDY)
    print(f"2 threads give {'the same text as' if texts[1] == texts[2] else 'another text than'} 1")
    assert len(texts[2]) > 0


def test_an_objects_seed_repeats_its_answers(files: dict[str, Any]) -> None:
    runs = []
    for _ in range(2):
        with EFT(**files, n_threads=1, speculative=False, seed=7) as eft:
            answers = [eft.complete("hello", limits=Limits(8)) for _ in range(1)]
            first = answers[0].text()
            second = eft.complete("hello", limits=Limits(8))
            runs.append((first, second.text()))
            assert answers[0].seed != second.seed
            again = eft.complete("hello", sampling=Sampling(seed=second.seed), limits=Limits(8))
            assert again.text() == runs[-1][1]
    assert runs[0] == runs[1]


# ---- what is reused


def test_a_second_turn_evaluates_only_what_is_new(eft: EFT) -> None:
    messages = [{"role": "user", "content": "tell me about the river"}]
    answer = eft.chat(messages, sampling=GREEDY, limits=Limits(9))
    text = answer.text()
    turn = [*messages, {"role": "assistant", "content": text}, {"role": "user", "content": "and now"}]
    known = eft._engine.ensemble.members[0].slots[0]
    prompt = eft.chat_prompts(turn)[0]
    n_same = next((i for i, (a, b) in enumerate(zip(known, prompt, strict=False)) if a != b), len(known))
    assert n_same >= answer.statistics.n_prompt
    with watched_decodes() as seen:
        second = eft.chat(turn, sampling=GREEDY, limits=Limits(1))
        second.text()
    assert second.statistics.n_reused == n_same
    assert seen.sizes == [len(prompt) - n_same] * 3


def test_a_cached_prompt_gives_the_text_of_a_fresh_one(eft: EFT) -> None:
    """Row 10 in small: begun from nothing, from a part, from all of it."""
    prompt = eft.tokenize(b"the quick brown fox jumps over the lazy dog")
    fresh = ids_of(eft.complete(prompt, sampling=GREEDY, limits=Limits(16)))
    for n_cached in (1, 3, len(prompt) - 1, len(prompt)):
        eft._engine.ensemble.clear(0)
        list(eft.complete(prompt[:n_cached], sampling=GREEDY, limits=Limits(2)))
        answer = eft.complete(prompt, sampling=GREEDY, limits=Limits(16))
        assert answer.statistics.n_reused >= n_cached
        assert_same_text(eft, [prompt] * 3, fresh, ids_of(answer), GREEDY)


def test_many_rounds_of_bad_drafts_leave_sound_caches(eft: EFT) -> None:
    """Row 6 in small: random drafts are refused again and again, in both slots."""
    use_drafter(eft, "random", random_drafter(eft._engine.ensemble, seed=4))
    n_rounds = 0
    for i in range(8):
        answer = eft.complete(f"prompt {i // 2}", sampling=HOT, limits=Limits(40), slot=i % 2,
                              speculation=Speculation(drafter="random", n_draft=1 + i))  # fmt: skip  # short
        for _ in answer:
            eft.validate()
        assert answer.statistics.drafts is not None
        n_rounds += answer.statistics.drafts.n_rounds
    assert n_rounds > 250


# ---- stopping


@pytest.mark.parametrize("speculation", [PLAIN, FOUR, Speculation(drafter="lookup+auto", n_draft=3)], ids=str)
@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 7, 9, 12])
def test_a_stop_from_another_thread(
    eft: EFT, at: int, speculation: Speculation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During the prompt, a token, a draft or its verification: decode number ``at`` is stopped inside llama.cpp."""
    expected = ids_of(eft.complete("a new prompt", sampling=HOT, limits=Limits(16), speculation=PLAIN))
    eft._engine.ensemble.clear(0)
    n_calls, real, codes = 0, llama_cpp.llama_decode, list[int]()

    def decode(context: Any, batch: Any) -> int:
        nonlocal n_calls
        if n_calls == at:
            other = threading.Thread(target=eft.stop)
            other.start()
            other.join()
        n_calls += 1
        codes.append(int(real(context, batch)))
        return codes[-1]

    with monkeypatch.context() as patch:
        patch.setattr(llama_cpp, "llama_decode", decode)
        events = list(eft.complete("a new prompt", sampling=HOT, limits=Limits(16), speculation=speculation))
    assert codes == [0] * at + [2]
    assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + ["cancelled"]
    shown = ids_of(events)
    assert shown == expected[: len(shown)]
    eft.validate()
    assert ids_of(eft.complete("a new prompt", sampling=HOT, limits=Limits(16), speculation=speculation)) == expected
    eft.validate()


def test_a_stop_at_any_moment(files: dict[str, Any]) -> None:
    """No pre-arranged moment: the answer would take ten seconds."""
    with EFT(**files, n_threads=1, n_ctx=4096, speculative=FOUR) as eft:
        timer = threading.Timer(0.05, eft.stop)
        timer.start()
        events = list(eft.complete("a b c", sampling=HOT))
        timer.join()
        assert events[-1].finish_reason == "cancelled"
        assert len(events) < 3000
        eft.validate()


def test_a_stop_keeps_what_was_shown_and_what_was_held_back(eft: EFT) -> None:
    whole = text_of(eft, "stop here", 12, GREEDY)
    answer = eft.complete("stop here", sampling=GREEDY, limits=Limits(12, stop=(whole[:40] + "?",)))
    stream = iter(answer)
    shown = [next(stream) for _ in range(4)]
    eft.stop()
    (last,) = list(stream)
    assert "".join(event.text for event in shown) == ""
    assert last.text == whole[: len(last.text)]
    assert last.text
    assert last.finish_reason == answer.statistics.finish_reason == "cancelled"


def test_a_stop_before_an_answer_does_not_touch_it(eft: EFT) -> None:
    eft.stop()
    assert len(text_of(eft, n=5)) >= 5


def test_a_stop_before_the_first_token_ends_the_answer(eft: EFT) -> None:
    answer = eft.complete("hello", sampling=HOT)
    eft.stop()
    assert [event.finish_reason for event in answer] == ["cancelled"]
    assert answer.text() == ""


def test_an_interrupt_from_the_keyboard_leaves_sound_caches(eft: EFT, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook: Python raises it when llama.cpp is done, and its cache holds what nobody noted."""
    expected = text_of(eft, "interrupt me")
    real, n_calls = llama_cpp.llama_decode, 0

    def decode(context: Any, batch: Any) -> int:
        nonlocal n_calls
        n_calls += 1
        code = int(real(context, batch))
        if n_calls == 8:
            raise KeyboardInterrupt
        return code

    with monkeypatch.context() as patch:
        patch.setattr(llama_cpp, "llama_decode", decode)
        with pytest.raises(KeyboardInterrupt):
            text_of(eft, "interrupt me", speculation=FOUR)
    assert text_of(eft, "interrupt me") == expected


# ---- failing


@pytest.mark.parametrize(("code", "error"), [(1, CacheFullError), (-1, EngineError), (-2, EngineError)])
@pytest.mark.parametrize("at", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("speculation", [PLAIN, FOUR], ids=["plain", "drafts"])
def test_return_codes_are_typed_errors(
    eft: EFT, code: int, error: type[EngineError], at: int, speculation: Speculation
) -> None:
    expected = text_of(eft, "a prompt", 16)
    eft._engine.ensemble.clear(0)
    answer = eft.complete("a prompt", sampling=HOT, limits=Limits(16), speculation=speculation)
    with failing_decode(at, code), pytest.raises(error) as caught:
        list(answer)
    assert type(caught.value) is error
    assert caught.value.code == code
    eft.validate()
    assert text_of(eft, "a prompt", 16, speculation=speculation) == expected


def test_code_2_is_a_stop(eft: EFT) -> None:
    with failing_decode(4, 2):
        events = list(eft.complete("a prompt", sampling=HOT, limits=Limits(16)))
    assert events[-1].finish_reason == "cancelled"
    assert issubclass(Cancelled, EngineError)
    eft.validate()


def test_a_damaged_model_is_an_error_not_a_text(files: dict[str, Any], tmp_path: Path) -> None:
    """A weight that is NaN makes every logit NaN."""
    data = bytearray(Path(files["tuned"]).read_bytes())
    data[-70_000:-60_000] = np.full(2500, np.nan, np.float32).tobytes()
    bad = tmp_path / "nan.gguf"
    bad.write_bytes(bytes(data))
    with EFT(files["base"], str(bad), files["reference"], n_threads=1, speculative=FOUR) as eft:
        for sampling in (GREEDY, HOT, Sampling(seed=1)):
            with pytest.raises(EngineError, match="finite"):
                text_of(eft, sampling=sampling)


def test_a_grammar_that_leaves_nothing_is_said(eft: EFT) -> None:
    banned = {i: -np.inf for i in range(512) if eft._speaker.piece(i)[:1] in {b"y", b""}}
    for speculation in (PLAIN, FOUR):
        with pytest.raises(InputError, match="no token is left"):
            text_of(eft, sampling=Sampling(grammar='root ::= "yes"', logit_bias=banned), speculation=speculation)
        eft.validate()


# ---- several answers


def test_an_abandoned_stream_is_no_harm(eft: EFT) -> None:
    expected = text_of(eft, "abandoned")
    for speculation in (PLAIN, FOUR):
        for n_taken in (0, 1, 3, 6):
            stream = iter(eft.complete("abandoned", sampling=HOT, speculation=speculation))
            for _ in range(n_taken):
                next(stream)
            del stream
            eft.validate()
            assert text_of(eft, "abandoned", speculation=speculation) == expected


@pytest.mark.parametrize("n_taken", [0, 1, 3])
@pytest.mark.parametrize("speculation", [PLAIN, FOUR], ids=["plain", "drafts"])
def test_a_second_answer_in_the_slot_ends_the_first(eft: EFT, n_taken: int, speculation: Speculation) -> None:
    """Also when nothing was taken of the first yet, and when the prompts are equal."""
    for prompt in ("another prompt", "first"):
        expected = text_of(eft, prompt)
        first = iter(eft.complete("first", sampling=HOT, limits=Limits(24), speculation=speculation))
        for _ in range(n_taken):
            next(first)
        second = eft.complete(prompt, sampling=HOT, limits=Limits(24), speculation=speculation)
        stream = iter(second)
        taken = [next(stream)]
        with pytest.raises(EngineError, match="slot 0: another answer was begun here"):
            next(first)
        assert "".join(event.text for event in (*taken, *stream)) == expected
        eft.validate()


@pytest.mark.parametrize("speculation", [PLAIN, FOUR], ids=["plain", "drafts"])
def test_two_slots_answer_in_turns(eft: EFT, speculation: Speculation) -> None:
    prompts = ("one conversation", "quite another one")
    expected = [ids_of(eft.complete(prompt, sampling=HOT, limits=Limits(20))) for prompt in prompts]
    answers = [
        iter(eft.complete(prompt, sampling=HOT, limits=Limits(20), slot=slot, speculation=speculation))
        for slot, prompt in enumerate(prompts)
    ]
    ids: list[list[int]] = [[], []]
    for i in range(40):
        ids[i % 2].append(next(answers[i % 2]).id)
        eft.validate()
    assert ids == expected


def test_threads_wait_for_each_other(eft: EFT) -> None:
    prompts = ("one conversation", "quite another one")
    expected = [text_of(eft, prompt, 20) for prompt in prompts]
    texts: dict[int, str] = {}

    def answer(slot: int) -> None:
        texts[slot] = eft.complete(prompts[slot], sampling=HOT, limits=Limits(20), slot=slot).text()

    threads = [threading.Thread(target=answer, args=(slot,)) for slot in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert texts == dict(enumerate(expected))


@pytest.mark.parametrize("slot", [-1, 2, 99])
def test_slots_that_there_are_not(eft: EFT, slot: int) -> None:
    with pytest.raises(InputError, match=f"slot: expected 0 to 1, got {slot}"):
        eft.complete("hello", slot=slot)


# ---- bounds


@pytest.fixture(scope="module")
def short(files: dict[str, Any]) -> Iterator[EFT]:
    """A context of 32 tokens."""
    with EFT(**files, n_threads=1, n_ctx=32, speculative=False) as made:
        yield made


@pytest.mark.parametrize("n_prompt", [31, 32, 33, 500])
def test_a_prompt_at_the_contexts_end(short: EFT, n_prompt: int) -> None:
    if n_prompt < 32:
        events = list(short.complete([65] * n_prompt, sampling=GREEDY))
        assert [event.finish_reason for event in events] == ["length"]
        short.validate()
        return
    with pytest.raises(ContextError, match=f"fewer than 32 tokens, .* got {n_prompt}") as caught:
        short.complete([65] * n_prompt)
    assert (caught.value.n_prompt, caught.value.n_ctx) == (n_prompt, 32)
    assert caught.value.http_status == 400
    with pytest.raises(ValueError, match="32"):
        short.create_completion([65] * n_prompt)


@pytest.mark.parametrize("speculation", [PLAIN, *(Speculation(n_draft=n) for n in (1, 4, 16, 60))], ids=str)
@pytest.mark.parametrize("n_prompt", [2, 20, 29, 30])
def test_generation_ends_at_the_contexts_end(short: EFT, n_prompt: int, speculation: Speculation) -> None:
    answer = short.complete([65 + i for i in range(n_prompt)], sampling=HOT, speculation=speculation)
    events = list(answer)
    assert events[-1].finish_reason == answer.statistics.finish_reason == "length"
    assert len(events) == 32 - n_prompt
    short.validate()
    assert all(len(member.slots[0]) < 32 for member in short._engine.ensemble.members)


def test_an_end_token_is_the_end(eft: EFT) -> None:
    answer = eft.complete("hello", sampling=Sampling(temperature=0.0, logit_bias={END: 100.0}), limits=Limits(9))
    (event,) = list(answer)
    assert (event.id, event.text, event.finish_reason) == (END, "", "stop")


def test_a_megabyte_of_prompt_is_too_long_and_said_soon(eft: EFT) -> None:
    began = time.process_time()
    with pytest.raises(ContextError):
        eft.complete("word " * 200_000)
    assert time.process_time() - began < 5.0


@pytest.mark.parametrize("prompt", [[-1], [512], [1 << 40], ["a"], [1.5], b"bytes", 5, None, [None], {"a": 1}])
def test_prompts_that_are_none(eft: EFT, prompt: Any) -> None:
    with pytest.raises(InputError, match="prompt: expected"):
        eft.complete(prompt)


@pytest.mark.parametrize("prompt", ["", [], "\x00", "\ud800 lone", "🙂", np.array([65, 66])])
def test_unusual_prompts_are_answered(eft: EFT, prompt: Any) -> None:
    assert len(list(eft.complete(prompt, sampling=HOT, limits=Limits(3)))) == 3


# ---- conversations


def test_members_share_the_tuned_models_template(eft: EFT) -> None:
    (prompt, *others) = eft.chat_prompts(HELLO)
    assert others == [prompt] * 2
    assert eft._speaker.detokenize(prompt, special=True) == b"<|user|>hello<|end|><|assistant|>"


def test_pretrained_members_may_read_a_transcript(files: dict[str, Any]) -> None:
    with EFT(**files, n_threads=1, speculative=FOUR, prompt_style="transcript") as eft:
        base, tuned, reference = eft.chat_prompts(HELLO)
        assert base == reference != tuned
        assert b"hello" in eft.detokenize(base)
        assert b"<|" not in eft._speaker.detokenize(base, special=True)
        with_drafts = ids_of(eft.chat(HELLO, sampling=HOT, limits=Limits(20)))
        eft.validate()
        assert with_drafts == ids_of(eft.chat(HELLO, sampling=HOT, limits=Limits(20), speculation=PLAIN))


def test_a_template_of_ones_own(files: dict[str, Any]) -> None:
    with EFT(**files, n_threads=1, speculative=False, template="{{ messages[0].content }}!") as eft:
        assert eft.detokenize(eft.chat_prompts(HELLO)[0]) == b"hello!"
    with EFT(**files, n_threads=1, speculative=False, template="chatml") as eft:
        assert b"im_start" in eft.detokenize(eft.chat_prompts(HELLO)[0])


def test_stop_strings_of_the_family(files: dict[str, Any]) -> None:
    with EFT(**files, n_threads=1, speculative=False) as eft:
        text = text_of(eft, sampling=GREEDY)
    family = Family("s", files["base"], (Delta("d", files["tuned"], files["reference"]),), stop=(text[5:7],))
    with EFT(family=family, n_threads=1, speculative=False) as eft:
        answer = eft.complete("hello", sampling=GREEDY, limits=Limits(24))
        assert answer.text() == text[: text.find(text[5:7])]
        assert answer.statistics.finish_reason == "stop"


def test_one_bos_where_the_model_wants_one(tmp_path: Path) -> None:
    """Whether the template writes it or the tokenizer adds it."""
    path = str(write_model(tmp_path / "m.gguf", seed=1, tokenizer="llama", chat_template="{{ bos_token }}hi"))
    with EFT(path, n_threads=1) as eft:
        assert eft.chat_prompts(HELLO)[0].count(1) == 1
        assert eft.complete("hello").statistics.n_prompt == len(eft.tokenize(b"hello"))
    path = str(write_model(tmp_path / "n.gguf", seed=1, tokenizer="llama", chat_template=CHAT_TEMPLATE))
    with EFT(path, n_threads=1) as eft:
        assert eft.chat_prompts(HELLO)[0].count(1) == 1


def test_the_bundled_family_answers(demo_eft: EFT) -> None:
    question = [{"role": "user", "content": "Where is Dunmoor?"}]
    answer = demo_eft.chat(question, sampling=GREEDY, limits=Limits(48))
    assert len(answer.text()) > 10
    assert answer.statistics.finish_reason == "stop"
    demo_eft.validate()


# ---- its end


def test_a_closed_object_says_so(files: dict[str, Any]) -> None:
    """llama.cpp would crash."""
    eft = EFT(**files, n_threads=1, speculative=False)
    pending = iter(eft.complete("hello", sampling=HOT))
    next(pending)
    eft.close()
    eft.close()
    for use in (
        lambda: next(pending),
        lambda: list(eft.complete("hello")),
        lambda: list(eft.complete([65, 66])),
        lambda: eft.chat(HELLO),
        lambda: eft.create_completion("hello"),
        lambda: eft.tokenize(b"hello"),
        lambda: eft.detokenize([65]),
        eft.validate,
    ):
        with pytest.raises(EngineError, match="closed"):
            use()
    eft.stop()


def test_closing_while_another_thread_decodes(files: dict[str, Any]) -> None:
    eft = EFT(**files, n_threads=1, speculative=FOUR)
    errors: list[Exception] = []
    started = threading.Event()

    def answer() -> None:
        try:
            for _ in eft.complete("hello", sampling=HOT):
                started.set()
        except EngineError as error:
            errors.append(error)

    thread = threading.Thread(target=answer)
    thread.start()
    started.wait(30)
    eft.close()
    thread.join(30)
    assert not thread.is_alive()
    assert not errors or "closed" in str(errors[0])


def test_memory_goes_back(files: dict[str, Any]) -> None:
    """Loading and closing 30 times: the process does not grow by the models' size each time."""
    import psutil

    size = sum(Path(path).stat().st_size for path in files.values())
    process = psutil.Process()
    for i in range(30):
        with EFT(**files, n_threads=1, speculative=False, n_ctx=64) as eft:
            text_of(eft, n=2)
        if i == 5:
            before = process.memory_info().rss
    assert process.memory_info().rss - before < 5 * size
