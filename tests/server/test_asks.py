"""Requests become asks: knobs, laws, limits and formats as they were wanted, or a refusal by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from eftlite.server.asking import About, Ask
from eftlite.server.asks import Plan, UnknownModelError, chat_plan, completion_plan, messages_of, mode_of, models
from eftlite.server.requests import ChatRequest, CompletionRequest, Message
from eftlite.server.schema import FieldError, parse
from eftlite.settings import MAX_SEED, Knobs, Limits, Sampling, Speculation
from tests.server.asgi import HELLO
from tests.server.fakes import ABOUT, TWO_DELTAS

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ALONE = replace(ABOUT, members=ABOUT.members[:1], deltas=(), knobs=Knobs(()))


def chat(about: About = ABOUT, **fields: Any) -> Plan:
    """The plan of a chat request."""
    return chat_plan(about, parse(ChatRequest, {"messages": HELLO, **fields}))


def complete(about: About = ABOUT, **fields: Any) -> Plan:
    """The plan of a completion request."""
    return completion_plan(about, parse(CompletionRequest, {"prompt": "a", **fields}))


def ask_of(**fields: Any) -> Ask:
    """The one ask of a chat request."""
    (ask,) = chat(**fields).asks
    return ask


def refused(**fields: Any) -> str:
    """The param of the refusal of a chat request."""
    with pytest.raises(FieldError) as caught:
        chat(**fields)
    return str(caught.value.param)


# ---- models


def test_each_member_is_a_model() -> None:
    assert models(ABOUT) == {"fake": "eft", "fake:base": "base", "fake:tuned": "tuned", "fake:reference": "reference"}
    assert models(ALONE) == {"fake": "base"}


@pytest.mark.parametrize(("name", "mode"), [(None, "eft"), ("fake", "eft"), ("fake:tuned", "tuned")])
def test_a_models_name_chooses_who_answers(name: str | None, mode: str) -> None:
    assert mode_of(ABOUT, name) == mode
    assert ask_of(model=name).knobs == (ABOUT.knobs if mode == "eft" else Knobs.alone(mode, 1))


@pytest.mark.parametrize(
    "name", ["gpt-4", "", "fake:", "fake:wizard", "../fake", "/etc/passwd", "C:\\x", "a\0b", "fake" * 99]
)
def test_other_models_are_not_found(name: str) -> None:
    with pytest.raises(UnknownModelError, match="fake, fake:base, fake:tuned, fake:reference") as caught:
        mode_of(ABOUT, name)
    error = caught.value
    assert (error.http_status, error.kind, error.param, error.code) == (
        404, "not_found_error", "model", "model_not_found",
    )  # fmt: skip  # a record
    assert len(str(error)) < 200


# ---- knobs


def test_knobs_of_a_request() -> None:
    ask = ask_of(eft={"alpha": 0.5, "beta": 2, "conservative_p": 0.9})
    assert (ask.knobs.alphas, ask.knobs.beta, ask.knobs.conservative_p) == ((0.5,), 2.0, 0.9)
    (ask,) = chat(TWO_DELTAS, eft={"deltas": {"harmless": 0.3}}).asks
    assert ask.knobs.alphas == (1.0, 0.3)


@pytest.mark.parametrize(
    "fields",
    [
        {"eft": {"deltas": {"kind": 1}}},
        {"eft": {"alpha": -1}},
        {"model": "fake:base", "eft": {"alpha": 1}},
        {"model": "fake:tuned", "eft": {"deltas": {"tuned": 1}}},
    ],
)
def test_knobs_that_cannot_be_honoured_are_refused(fields: dict[str, Any]) -> None:
    assert refused(**fields) == "eft"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, Speculation()),
        (False, Speculation(enabled=False)),
        (True, Speculation()),
        ({"rule": "block", "n_draft": 4}, Speculation(rule="block", n_draft=4)),
        ({"drafter": "lookup"}, Speculation(drafter="lookup")),
    ],
)
def test_speculation_of_a_request(wanted: Any, expected: Speculation) -> None:
    assert ask_of(eft={"speculative": wanted}).speculation == expected


def test_speculation_that_was_switched_off_can_be_switched_on() -> None:
    about = replace(ABOUT, speculation=Speculation(enabled=False, rule="block"))
    (ask,) = chat(about, eft={"speculative": {"n_draft": 2}}).asks
    assert ask.speculation == Speculation(rule="block", n_draft=2)


def test_mirostat_cannot_be_verified() -> None:
    assert refused(mirostat=2, eft={"speculative": True}) == "eft.speculative"
    assert ask_of(mirostat=2).sampling.mirostat == 2
    assert ask_of(mirostat=2, temperature=0, eft={"speculative": True}).speculation == Speculation()


# ---- laws and limits


def test_sampling_has_llama_cpps_defaults() -> None:
    assert ask_of().sampling == Sampling()


def test_sampling_of_a_request() -> None:
    fields = {
        "temperature": 0.1,
        "top_k": 5,
        "repeat_last_n": 3,
        "dry_multiplier": 0.5,
        "seed": 7,
        "grammar": 'root ::= "a"',
    }
    sampling = ask_of(**fields, logit_bias={"5": -100, "6": 1}).sampling
    assert sampling == Sampling(
        temperature=0.1, top_k=5, penalty_last_n=3, dry_multiplier=0.5, seed=7, grammar='root ::= "a"',
        logit_bias={5: -100.0, 6: 1.0},
    )  # fmt: skip  # a record


def test_biases_of_tokens_that_do_not_exist_are_refused() -> None:
    assert refused(logit_bias={str(ABOUT.n_vocab): 1}) == "logit_bias"


def test_limits_of_a_request() -> None:
    assert ask_of().limits == Limits()
    assert ask_of(stop="x", max_tokens=5).limits == Limits(5, ("x",))
    assert ask_of(stop=["x", "y"], max_tokens=5, max_completion_tokens=9).limits == Limits(9, ("x", "y"))
    assert complete().asks[0].limits == Limits(16)
    assert complete(max_tokens=0, logprobs=3).asks[0].limits == Limits(0, n_top=3)


def test_logprobs_in_both_styles() -> None:
    assert chat().shape.n_logprobs is None
    assert chat(logprobs=True).shape.n_logprobs == 0
    assert chat(logprobs=True, top_logprobs=4).shape.n_logprobs == 4
    assert chat(logprobs=True, top_logprobs=4).asks[0].limits.n_top == 4
    assert complete(logprobs=0).shape.n_logprobs == 0
    assert refused(top_logprobs=4) == "top_logprobs"


# ---- several answers


def test_seeds_of_several_answers_follow_each_other() -> None:
    assert [ask.sampling.seed for ask in chat(n=3, seed=5).asks] == [5, 6, 7]
    assert [ask.sampling.seed for ask in chat(n=2, seed=MAX_SEED).asks] == [MAX_SEED, 0]
    assert [ask.sampling.seed for ask in chat(n=2).asks] == [None, None]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_prompts_of_every_form(prompt: Any, prompts: list[Any]) -> None:
    assert [ask.prompt for ask in complete(prompt=prompt).asks] == prompts
    assert [ask.prompt for ask in complete(prompt=prompt, n=2).asks] == [p for p in prompts for _ in range(2)]


def test_completions_refuse_what_they_cannot_do() -> None:
    for fields in ({"suffix": "x"}, {"best_of": 2}, {"prompt": [ABOUT.n_vocab]}, {"prompt": [[1], [ABOUT.n_vocab]]}):
        with pytest.raises(FieldError) as caught:
            complete(**fields)
        assert caught.value.param == next(iter(fields))
    complete(suffix="", best_of=3, n=3)


# ---- conversations


def test_arguments_of_earlier_calls_are_data() -> None:
    """Templates write them out as JSON themselves."""
    calls = [{"function": {"name": "f", "arguments": text}} for text in ('{"a": 1}', "not json", "[1]", "[" * 9999)]
    (message,) = messages_of([parse(Message, {"role": "assistant", "tool_calls": calls})])
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == [
        {"a": 1},
        "not json",
        "[1]",
        "[" * 9999,
    ]
    assert "content" not in message


def test_messages_keep_what_templates_read() -> None:
    turn = {"role": "tool", "content": [{"type": "text", "text": "x", "more": 1}], "tool_call_id": "1", "extra": 5}
    expected = {"role": "tool", "content": [{"type": "text", "text": "x"}], "tool_call_id": "1"}
    assert messages_of([parse(Message, turn)]) == [expected]


# ---- tools

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": SCHEMA, "strict": True},
}
TIME = {"type": "function", "function": {"name": "time"}}


def test_tools_reach_the_template() -> None:
    plan = chat(tools=[WEATHER, TIME], tool_choice="auto")
    assert plan.tools == {"weather", "time"}
    assert plan.asks[0].tools == [
        {"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}}, TIME,
    ]  # fmt: skip  # a record
    assert plan.asks[0].response_format is None


@pytest.mark.parametrize(
    "fields", [{"tools": [WEATHER], "tool_choice": "none"}, {"tools": []}, {"tool_choice": "auto"}]
)
def test_no_tools(fields: dict[str, Any]) -> None:
    plan = chat(**fields)
    assert (plan.tools, plan.asks[0].tools, plan.asks[0].response_format) == (frozenset(), None, None)


def test_a_template_must_know_tools() -> None:
    with pytest.raises(FieldError, match=r"^tools: expected none"):
        chat(replace(ABOUT, template="{{ messages }}"), tools=[WEATHER])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": []}, "functions"),
        ({"function_call": "auto"}, "function_call"),
    ],
)
def test_choices_that_cannot_be_honoured_are_refused(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == param
