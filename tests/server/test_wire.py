from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlite import errors
from eftlite.errors import (
    BusyError,
    ContextError,
    EFTError,
    EngineError,
    InputError,
    TemplateError,
    VocabularyError,
    WorkerError,
)
from eftlite.events import Candidate, DraftStatistics, Statistics, TokenEvent
from eftlite.server import wire
from eftlite.server.asking import About, Ask, MemberAbout
from eftlite.server.protocol import (
    Beat,
    Began,
    Begin,
    Credit,
    Detokenize,
    Ended,
    Events,
    Loaded,
    LoadFailed,
    LoadRequest,
    Progress,
    Render,
    Reply,
    Scoring,
    SetKnobs,
    Stop,
    Tokenize,
)
from eftlite.server.wire import ProtocolError, decode, encode
from eftlite.settings import Delta, Family, Knobs, Limits, ModelSettings, Sampling, Speculation

KNOBS = Knobs((0.7, -0.3), 1.5, 0.9, control_tokens=False, allow_negative=True)
ASK = Ask(
    KNOBS,
    messages=[{"role": "user", "content": [{"type": "text", "text": "Grüße 🙂 \ud800"}], "$": "Knobs"}],
    sampling=Sampling(seed=2**64 - 1, logit_bias={5: -math.inf, 7: 1.5}, grammar='root ::= "a"\n'),
    limits=Limits(12, ("\n", "ende"), 5),
    response_format={"type": "json_schema", "json_schema": {"schema": {"$ref": "#/$defs/a", "n": [1, 2.5, None]}}},
    speculation=Speculation(n_draft=4, rule="block"),
    tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
)
ABOUT = About(
    family="demo",
    members=(MemberAbout("base", "base.gguf", "llama 1B Q8_0", 10**9, 2**31, 4096),),
    deltas=("helpful", "harmless"),
    knobs=KNOBS,
    speculation=Speculation(),
    n_ctx=4096,
    n_vocab=32000,
    n_slots=4,
    template="{{ messages }}",
    notes=("tuned has two more padding rows",),
    build={"llama.cpp": "b1", "$": "odd"},
)
STATISTICS = Statistics(
    12, 3, 7, 1, 0.5, 1.25, {"base": 1.0}, math.nan, "stop", "tuned, gumbel",
    DraftStatistics(2, 8, 5, {4: 2}, [2, 1], [2, 2]),
)  # fmt: skip
EVENT = TokenEvent(
    65, "ä", b"\xc3", -math.inf, 0.25, "accepted",
    {"eft": (Candidate(65, "�", -0.5, b"\xc3"), Candidate(0, "", -math.inf, b"")), "base": ()}, "stop", True,
)  # fmt: skip
FAMILY = Family("f", "/models/b.gguf", (Delta("d", "t", "r", 0.5),), None, "chatml", ("\nUser:",))
MESSAGES = [
    LoadRequest(),
    LoadRequest(
        FAMILY, 512, 2, 0.5, 2.0, 0.9, Speculation(enabled=False), "d.gguf",
        {"base": ModelSettings(n_gpu_layers=-1, tensor_split=(0.5, 0.5)), "tuned": ModelSettings()}, "x", "transcript",
    ),
    LoadRequest("family.toml", settings=ModelSettings(flash_attn=True)),
    Begin(1, ASK),
    Begin(2, Ask(Knobs(), prompt=[1, 2, 3])),
    Begin(3, Scoring("text", KNOBS, 5)),
    Stop(4), SetKnobs(5, KNOBS), Credit(6, 64),
    Tokenize(7, "\udfff\ud83d\x00\n", True, False), Detokenize(8, [1, 2], True),
    Render(9, ({"role": "user", "content": "hi"},), None),
    Beat(3, 1.5, "idle"), Progress("tuned:harmless", 0.25), Loaded(ABOUT), Began(1, 2**64 - 1),
    Events(1, (EVENT, TokenEvent(-1, "", finish_reason="cancelled"))),
    Ended(1, Statistics()),
    Reply(7, [1, 2]), Reply(8, b"\x00\xff"), Reply(9, "text"),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_comes_back_equal(message: Any) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == message


def test_nan_and_infinities_survive() -> None:
    back = decode(encode(Events(1, (TokenEvent(1, "", logprob=math.nan, shift=math.inf),)))).events[0]
    assert math.isnan(back.logprob)
    assert back.shift == math.inf
    ended = decode(encode(Ended(1, STATISTICS))).statistics
    assert math.isnan(ended.shift)
    assert ended.drafts == STATISTICS.drafts
    assert ended.drafts.lengths == {4: 2}


def test_hashable_things_stay_hashable() -> None:
    """Knobs and settings are frozen: lists in place of their tuples would break equality and caches."""
    assert hash(decode(encode(SetKnobs(1, KNOBS))).knobs) == hash(KNOBS)
    assert isinstance(decode(encode(Begin(1, ASK))).what.limits.stop, tuple)


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["$", "of", "a", ""]) | st.text(), inner),
    max_leaves=20,
)


@given(json_data)
def test_whatever_clients_send_comes_back(data: Any) -> None:
    message = Render(1, [{"role": "user", "content": data}], None)
    assert decode(encode(message)) == message


@given(st.binary(), st.text(), st.floats(allow_nan=False), st.binary())
def test_whatever_models_write_comes_back(piece: bytes, text: str, number: float, other: bytes) -> None:
    top: dict[str, tuple[Candidate, ...]] = {text: (Candidate(1, text, number, other),)}
    message = Events(1, (TokenEvent(1, text, piece, number, number, top=top),))
    assert decode(encode(message)) == message


# ---- errors

ALL_ERRORS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, EFTError)]


def returned(error: EFTError) -> EFTError:
    back = decode(encode(LoadFailed(error))).error
    assert isinstance(back, EFTError)
    return back


@pytest.mark.parametrize("cls", ALL_ERRORS)
def test_every_error_keeps_its_class(cls: type[EFTError]) -> None:
    back = returned(cls("thing: expected this, got that", "Do this"))
    assert type(back) is cls
    assert (back.message, back.hint) == ("thing: expected this, got that", "Do this")
    assert (back.http_status, back.kind) == (cls.http_status, cls.kind)


@pytest.mark.parametrize(
    "error",
    [
        VocabularyError("v", "h", 7, ("a", "b")),
        ContextError("c", "h", 5000, 4096),
        EngineError("e", code=-3),
        BusyError("b", "h", 12),
        WorkerError("w", retry_after_s=1),
    ],
)
def test_attributes_survive(error: EFTError) -> None:
    assert vars(returned(error)) == vars(error)


def test_an_error_from_elsewhere_becomes_the_nearest_known_one() -> None:
    class Special(TemplateError):
        def __init__(self) -> None:
            super().__init__("t", "h")
            self.detail = object()

    back = returned(Special())
    assert type(back) is TemplateError
    assert back.message == "t"


# ---- lines that are no messages


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"null\n", b"[]\n", b"{}\n", b"\xff\xfe\n", b'{"$":"Stop"}\n', b'{"$":"Stop","id":1,"more":2}\n',
        b'{"$":"Popen","args":["true"]}\n', b'{"$":["list"]}\n', b'{"$":"tuple","of":[1]}\n', b'{"$":"tuple"}\n',
        b'{"$":"Knobs","alphas":[1]}\n', b'{"$":"event","of":[1,2]}\n', b'{"$":"bytes","of":"\\u0100"}\n',
        b'{"$":"error","of":["SystemExit","m","h",{}]}\n',
        b'{"$":"LoadFailed","error":{"$":"error","of":["EFTError"]}}\n',
        b'{"$":"SetKnobs","id":1,"knobs":{"$":"Knobs","alphas":[-5]}}\n', b"[" * 100_000 + b"\n",
    ],
)  # fmt: skip
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(line)


@given(st.binary(max_size=40))
def test_noise_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(line + b"\n")


def test_data_nested_too_deeply_are_the_clients_mistake() -> None:
    nested: Any = "x"
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(InputError, match="nested too deeply"):
        encode(Render(1, [{"role": "user", "content": nested}], None))


def test_a_foreign_object_is_our_mistake() -> None:
    with pytest.raises(TypeError, match="expected a value"):
        encode(Reply(1, object()))


def test_events_keep_the_order_of_their_fields() -> None:
    """Rows have no names: a field that is added to an event must be added to its row."""
    assert len(wire._event_row(EVENT)) == len(fields(TokenEvent))
    assert len(fields(Candidate)) == 4
    row = json.loads(encode(Events(1, (EVENT,))))["events"]["of"][0]["of"]
    assert row[:6] == [65, "ä", "\xc3", -math.inf, 0.25, "accepted"]
