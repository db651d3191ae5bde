"""Events -> dictionaries of llama_cpp.Llama's shape: texts, offsets, log-probabilities, finish reasons."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from eftlite.events import Candidate, DraftStatistics, Statistics, TokenEvent
from eftlite.responses import Chunks, Shape, choice, eft_block, finish_reason, stream, usage, whole

TOP = {
    "eft": (Candidate(1, "ab", -0.1, b"ab"), Candidate(2, "\ufffd", -2.0, b"\xc8")),
    "base": (Candidate(3, "zz", -0.5, b"zz"),),
}
EVENTS = [
    TokenEvent(1, "ab", b"ab", -0.1, 0.25, top=TOP),
    TokenEvent(2, "", b"\xc8", -2.0, 0.5, top=TOP),
    TokenEvent(3, "é!", b"\x99!", -0.3, 0.5, top=TOP, finish_reason="length"),
]
STATISTICS = Statistics(
    n_prompt=7, n_reused=4, n_tokens=3, prompt_s=0.5, decode_s=0.25, member_s={"base": 0.2}, shift=0.4,
    finish_reason="length", speculation="tuned, gumbel", drafts=DraftStatistics(1, 4, 2, {4: 1}),
)  # fmt: skip  # a record


def shape(kind: str, n_logprobs: int | None = None) -> Shape:
    """Of a model called m."""
    return Shape(kind, "m", n_logprobs)


def chunks(
    kind: str, n_logprobs: int | None = None, events: Sequence[TokenEvent] = EVENTS, prompt: str = ""
) -> list[Any]:
    """The choices of a stream."""
    return [chunk["choices"][0] for chunk in stream(shape(kind, n_logprobs), iter(events), prompt)]


# ---- whole


def test_a_whole_completion() -> None:
    response = whole(shape("completion"), EVENTS, STATISTICS, 9)
    assert response["object"] == "text_completion"
    assert response["id"].startswith("cmpl-")
    assert response["model"] == "m"
    assert isinstance(response["created"], int)
    assert response["choices"] == [{"text": "abé!", "index": 0, "logprobs": None, "finish_reason": "length"}]
    assert response["usage"] == {
        "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4},
    }  # fmt: skip  # as OpenAI prints it
    assert response["eft"]["seed"] == 9
    assert response["eft"]["shift"] == 0.4
    assert response["eft"]["member_s"] == {"base": 0.2}
    assert response["eft"]["tokens_per_s"] == 8.0
    assert response["eft"]["drafts"]["n_accepted"] == 2


def test_a_whole_chat_answer() -> None:
    response = whole(shape("chat"), EVENTS, STATISTICS, 9)
    assert response["object"] == "chat.completion"
    assert response["id"].startswith("chatcmpl-")
    message = {"role": "assistant", "content": "abé!"}
    assert response["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}]


def test_responses_have_names_of_their_own() -> None:
    assert shape("chat").id != shape("chat").id


@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_everything_is_json(kind: str) -> None:
    json.dumps(whole(shape(kind, 2), EVENTS, STATISTICS, 9, "prompt"))
    json.dumps(list(stream(shape(kind, 2), iter(EVENTS), "prompt")))


def test_the_prompt_is_echoed_before_the_text() -> None:
    assert whole(shape("completion"), EVENTS, STATISTICS, 9, "pre ")["choices"][0]["text"] == "pre abé!"


# ---- log-probabilities


def test_legacy_logprobs_are_parallel_lists() -> None:
    logprobs = whole(shape("completion", 1), EVENTS, STATISTICS, 9, "pre ")["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["ab", "\ufffd", "\ufffd!"],
        "text_offset": [4, 6, 6],
        "token_logprobs": [-0.1, -2.0, -0.3],
        "top_logprobs": [{"ab": -0.1}, {"ab": -0.1, "\ufffd": -2.0}, {"ab": -0.1, "\ufffd!": -0.3}],
    }


def test_chat_logprobs_are_one_entry_for_each_token() -> None:
    """With the bytes of each token, also where they are no text by themselves."""
    content = whole(shape("chat", 2), EVENTS, STATISTICS, 9)["choices"][0]["logprobs"]["content"]
    assert [entry["bytes"] for entry in content] == [[97, 98], [0xC8], [0x99, 0x21]]
    assert content[0]["top_logprobs"] == [
        {"token": "ab", "logprob": -0.1, "bytes": [97, 98]},
        {"token": "\ufffd", "logprob": -2.0, "bytes": [0xC8]},
    ]
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode("utf-8", "replace")[:2] == "ab"


def test_tokens_with_one_text_count_as_the_likeliest() -> None:
    """Many tokens are no text by themselves, and look alike."""
    top: dict[str, tuple[Candidate, ...]] = {
        "eft": (Candidate(1, "\ufffd", -0.5, b"\xc8"), Candidate(2, "\ufffd", -3.0, b"\xc9"))
    }
    event = TokenEvent(2, "", b"\xc9", -3.0, top=top, finish_reason="length")
    logprobs = whole(shape("completion", 2), [event], STATISTICS, 9)["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"] == [{"\ufffd": -0.5}]


def test_log_probabilities_that_json_cannot_hold() -> None:
    events = [TokenEvent(1, "a", b"a", float("nan")), TokenEvent(2, "b", b"b", float("-inf"), finish_reason="stop")]
    legacy = whole(shape("completion", 0), events, STATISTICS, 9)["choices"][0]["logprobs"]
    assert legacy["token_logprobs"] == [None, -9999.0]
    assert legacy["top_logprobs"] == [None, {"b": -9999.0}]
    content = whole(shape("chat", 0), events, STATISTICS, 9)["choices"][0]["logprobs"]["content"]
    assert [entry["logprob"] for entry in content] == [None, -9999.0]


def test_a_scored_prompt_stands_before_the_answer() -> None:
    scored = [TokenEvent(8, "pr", b"pr", float("nan")), TokenEvent(9, "e", b"e", -1.0)]
    made = choice(shape("completion", 0), EVENTS[:1], "length", index=3, prompt="pre", scored=scored)
    assert (made["index"], made["text"], made["finish_reason"]) == (3, "preab", "length")
    assert made["logprobs"]["tokens"] == ["pr", "e", "ab"]
    assert made["logprobs"]["token_logprobs"] == [None, -1.0, -0.1]
    assert made["logprobs"]["text_offset"] == [0, 2, 3]


def test_logprobs_without_candidates() -> None:
    plain = [TokenEvent(1, "a", b"a", -0.5, finish_reason="stop")]
    legacy = whole(shape("completion", 0), plain, STATISTICS, 9)["choices"][0]["logprobs"]
    assert legacy["top_logprobs"] == [{"a": -0.5}]
    chat = whole(shape("chat", 0), plain, STATISTICS, 9)["choices"][0]["logprobs"]["content"]
    assert chat[0]["top_logprobs"] == []


def test_the_end_of_a_stopped_answer_is_no_token() -> None:
    """What was held back becomes visible with an event that has no id."""
    events = [EVENTS[0], TokenEvent(-1, "held", finish_reason="cancelled")]
    response = whole(shape("completion", 1), events, Statistics(n_tokens=1, finish_reason="cancelled"), 9)
    assert response["choices"][0]["text"] == "abheld"
    assert response["choices"][0]["logprobs"]["tokens"] == ["ab"]
    assert response["choices"][0]["finish_reason"] == "stop"
    last_but_one, last = chunks("completion", 1, events)[1:]
    assert (last_but_one["text"], last_but_one["logprobs"]) == ("held", None)
    assert last["finish_reason"] == "stop"


# ---- streams


def test_a_streamed_completion_ends_with_its_reason_alone() -> None:
    assert chunks("completion") == [
        {"index": 0, "text": "ab", "logprobs": None, "finish_reason": None},
        {"index": 0, "text": "é!", "logprobs": None, "finish_reason": None},
        {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"},
    ]


def test_a_streamed_chat_begins_with_the_role() -> None:
    assert [choice["delta"] for choice in chunks("chat")] == [
        {"role": "assistant"}, {"content": "ab"}, {"content": "é!"}, {},
    ]  # fmt: skip  # as they come
    assert [choice["finish_reason"] for choice in chunks("chat")] == [None, None, None, "length"]
    assert {chunk["object"] for chunk in stream(shape("chat"), iter(EVENTS))} == {"chat.completion.chunk"}


def test_chunks_of_one_stream_share_their_name() -> None:
    made = list(stream(shape("chat"), iter(EVENTS)))
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in made}) == 1


def test_a_stream_with_logprobs_has_a_chunk_for_each_token() -> None:
    """Also for tokens that show nothing yet."""
    made = chunks("completion", 1, prompt="pre ")
    assert [choice["text"] for choice in made] == ["pre ", "ab", "", "é!", ""]
    assert [choice["logprobs"]["text_offset"] for choice in made[1:4]] == [[4], [6], [6]]
    assert made[-1]["logprobs"] is None


def test_a_stream_passes_events_on_as_they_come() -> None:
    taken: list[int] = []

    def slowly() -> Iterator[TokenEvent]:
        for i, event in enumerate(EVENTS):
            taken.append(i)
            yield event

    made = stream(shape("chat"), slowly())
    next(made)  # the role needs no event
    assert taken == []
    next(made)
    assert taken == [0]


def test_a_stream_of_nothing() -> None:
    assert chunks("completion", events=[]) == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]


def test_a_stream_with_a_scored_prompt() -> None:
    chunks = Chunks(shape("completion", 0), index=2)
    scored = [TokenEvent(9, "pre", b"pre", float("nan"))]
    made = [*chunks.first("pre", scored), *chunks.of(EVENTS[0]), chunks.last("length")]
    choices = [chunk["choices"][0] for chunk in made]
    assert [choice["text"] for choice in choices] == ["pre", "ab", ""]
    assert [choice["index"] for choice in choices] == [2, 2, 2]
    assert choices[0]["logprobs"]["tokens"] == ["pre"]
    assert choices[1]["logprobs"]["text_offset"] == [3]


# ---- small things


def test_the_accepted_part_of_the_drafts() -> None:
    assert eft_block(STATISTICS, 9)["acceptance"] == 0.5
    assert eft_block(Statistics(drafts=DraftStatistics()), 9)["acceptance"] is None
    assert eft_block(Statistics(), 9)["acceptance"] is None


@pytest.mark.parametrize(
    ("ours", "theirs"), [("stop", "stop"), ("length", "length"), ("cancelled", "stop"), (None, None)]
)
def test_finish_reasons_are_openais(ours: str | None, theirs: str | None) -> None:
    assert finish_reason(ours) == theirs


def test_usage_adds_up() -> None:
    counts = usage(Statistics(n_prompt=5, n_tokens=2))
    assert counts["total_tokens"] == counts["prompt_tokens"] + counts["completion_tokens"] == 7


def test_an_end_token_is_neither_counted_nor_reported() -> None:
    """As in llama_cpp.Llama."""
    word = TokenEvent(1, "word", b"word", -0.5)
    end = TokenEvent(2, "", b"<|end|>", -0.1, finish_reason="stop", is_end=True)
    statistics = Statistics(n_prompt=5, n_tokens=2, n_end_tokens=1, finish_reason="stop")
    response = whole(shape("completion", 0), [word, end], statistics, 9)
    assert response["usage"]["completion_tokens"] == 1
    assert response["choices"][0]["logprobs"]["tokens"] == ["word"]
    streamed = list(stream(shape("completion", 0), iter([word, end])))
    assert [chunk["choices"][0]["text"] for chunk in streamed] == ["word", ""]
