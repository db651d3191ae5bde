"""Settings are checked when they are made: each wrong value is an InputError that names the field."""

from __future__ import annotations

import dataclasses
import math
import re
from decimal import Decimal
from typing import Any

import pytest

from eftlite.errors import InputError
from eftlite.settings import (
    Delta,
    Family,
    Knobs,
    Limits,
    ModelSettings,
    Sampling,
    Speculation,
    from_options,
)

CLASSES: tuple[type[Any], ...] = (ModelSettings, Knobs, Sampling, Speculation, Limits)
NO_NUMBERS: tuple[object, ...] = (
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    -1e308,
    2**63,
    -(2**63),
    True,
    "1",
    b"1",
    [1],
    Decimal(1),
    1j,
)

# Fields by type, found in the classes so that a new one is tried too.
FIELDS = [(cls, f.name, str(f.type)) for cls in CLASSES for f in dataclasses.fields(cls)]
INTEGERS = [(cls, name) for cls, name, kind in FIELDS if kind in {"int", "int | None"}]
NUMBERS = [(cls, name) for cls, name, kind in FIELDS if kind in {"float", "float | None"}]
FLAGS = [(cls, name) for cls, name, kind in FIELDS if kind in {"bool", "bool | None"}]
TEXTS = [(cls, name) for cls, name, kind in FIELDS if kind in {"str", "str | None"}]
# What is wrong elsewhere is right here.
FITTING: dict[str, list[object]] = {"seed": [2**63]}


def refused(cls: type[Any], name: str, value: object) -> None:
    """The class refuses the value and names the field."""
    with pytest.raises(InputError, match=rf"\b{re.escape(name)}\b"):
        cls(**{name: value})


def test_no_field_is_forgotten() -> None:
    special = {"devices", "tensor_split", "alphas", "logit_bias", "stop"}
    known = {name for _, name in (*INTEGERS, *NUMBERS, *FLAGS, *TEXTS)}
    assert {name for _, name, _ in FIELDS} == known | special
    assert len(INTEGERS) > 12
    assert len(NUMBERS) > 10


@pytest.mark.parametrize(("cls", "name"), [*INTEGERS, *NUMBERS], ids=str)
def test_what_is_no_number_is_refused(cls: type[Any], name: str) -> None:
    for value in NO_NUMBERS:
        if value not in FITTING.get(name, []):
            refused(cls, name, value)


@pytest.mark.parametrize(("cls", "name"), INTEGERS, ids=str)
def test_integers_must_be_whole(cls: type[Any], name: str) -> None:
    refused(cls, name, 1.5)
    refused(cls, name, -7)


@pytest.mark.parametrize(("cls", "name"), FLAGS, ids=str)
def test_flags_must_be_flags(cls: type[Any], name: str) -> None:
    values: tuple[object, ...] = (0, 1, "yes", 0.0, [], math.nan)
    for value in values:
        refused(cls, name, value)


@pytest.mark.parametrize(("cls", "name"), TEXTS, ids=str)
def test_texts_must_be_texts(cls: type[Any], name: str) -> None:
    values: tuple[object, ...] = (5, 1.5, True, b"lookup", ["q8_0"])
    for value in values:
        refused(cls, name, value)


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (Knobs, "beta", -0.1),
        (Knobs, "conservative_p", 1.01),
        (Knobs, "conservative_p", -0.01),
        (Sampling, "temperature", -1.0),
        (Sampling, "top_p", 1.1),
        (Sampling, "min_p", -0.1),
        (Sampling, "typical_p", 2.0),
        (Sampling, "repeat_penalty", 0.0),
        (Sampling, "mirostat", 3),
        (Sampling, "seed", -1),
        (Sampling, "seed", 2**64),
        (Sampling, "penalty_last_n", -2),
        (Sampling, "top_k", -2),
        (Speculation, "n_draft", 0),
        (Speculation, "n_draft", 65),
        (Speculation, "max_draft", 0),
        (Speculation, "rule", "guess"),
        (Limits, "max_tokens", -1),
        (Limits, "n_top", 101),
        (ModelSettings, "n_batch", 0),
        (ModelSettings, "n_threads", -1),
        (ModelSettings, "n_gpu_layers", -2),
        (ModelSettings, "split_mode", "column"),
        (ModelSettings, "type_k", "q3_0"),
        (ModelSettings, "type_v", ""),
    ],
)
def test_values_just_outside_are_refused(cls: type[Any], name: str, value: object) -> None:
    refused(cls, name, value)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (Knobs, {"beta": 0.0, "conservative_p": 0.0}),
        (Knobs, {"beta": 100, "conservative_p": 1}),
        (Knobs, {"alphas": ()}),
        (Knobs, {"alphas": (0, 100.0)}),
        (Sampling, {"temperature": 0, "top_k": -1, "top_p": 0, "min_p": 1, "typical_p": 0, "penalty_last_n": -1}),
        (Sampling, {"seed": 2**64 - 1, "logit_bias": {0: -math.inf, 5: 2}}),
        (Speculation, {"n_draft": 64, "max_draft": 1}),
        (Limits, {"max_tokens": 0, "n_top": 100, "stop": ("a", "\n")}),
        (
            ModelSettings,
            {"n_gpu_layers": -1, "n_threads": 0, "n_batch": 1, "tensor_split": (0.5, 2), "flash_attn": None},
        ),
    ],
)
def test_values_just_inside_are_taken(cls: type[Any], options: dict[str, Any]) -> None:
    made = cls(**options)
    assert {name: getattr(made, name) for name in options} == options


# ---- fields that are neither numbers nor words


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_each_alpha_must_be_a_number(value: object) -> None:
    with pytest.raises(InputError, match="alpha"):
        Knobs((1.0, value))  # type: ignore[arg-type]  # the point


@pytest.mark.parametrize("value", [1.0, "1.0", None, {1.0}])
def test_alphas_must_be_several(value: object) -> None:
    refused(Knobs, "alphas", value)


def test_a_negative_alpha_must_be_asked_for() -> None:
    with pytest.raises(InputError, match="alpha: expected a number from 0") as caught:
        Knobs((-0.5,))
    assert "--allow-negative-alpha" in caught.value.hint
    assert Knobs((-0.5,), allow_negative=True).alphas == (-0.5,)
    with pytest.raises(InputError):
        Knobs((1.0,)).with_alpha(0, -1.0)


def test_one_alpha_can_be_changed() -> None:
    knobs = Knobs((1.0, 0.5), beta=1.5)
    assert knobs.with_alpha(1, 0.25) == Knobs((1.0, 0.25), beta=1.5)
    assert knobs.alphas == (1.0, 0.5)


@pytest.mark.parametrize("bias", [math.nan, math.inf, "1", None, True, [1]])
def test_a_bias_must_be_a_number_or_minus_infinity(bias: object) -> None:
    refused(Sampling, "logit_bias", {3: bias})


@pytest.mark.parametrize("token", [-1, "3", 1.5, True, None, 2**40])
def test_a_bias_is_for_a_token(token: object) -> None:
    refused(Sampling, "logit_bias", {token: 1.0})


@pytest.mark.parametrize("value", [[1], 5, "ab", None])
def test_biases_must_be_a_mapping(value: object) -> None:
    refused(Sampling, "logit_bias", value)


@pytest.mark.parametrize("stop", ["word", ("",), ("a", ""), (1,), (None,), 5, b"ab", {"a": 1}])
def test_stop_strings_must_be_several_and_not_empty(stop: object) -> None:
    refused(Limits, "stop", stop)


@pytest.mark.parametrize("value", ["12", 5, (math.nan,), (-1.0,), ("1",), {1: 2.0}])
def test_a_split_is_a_share_for_each_device(value: object) -> None:
    refused(ModelSettings, "tensor_split", value)


# ---- as wholes


@pytest.mark.parametrize("cls", [*CLASSES, Delta, Family])
def test_settings_cannot_be_changed_behind_anyones_back(cls: type[Any]) -> None:
    words = {Delta: ("a", "b", "c"), Family: ("a", "b")}
    made = cls(*words.get(cls, ()))
    field = dataclasses.fields(cls)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, field, getattr(made, field))


def test_options_that_are_none_leave_the_defaults() -> None:
    assert from_options(Sampling, {"temperature": None, "top_k": 5}) == Sampling(top_k=5)
    with pytest.raises(TypeError):
        from_options(Sampling, {"nonsense": 1})


def test_defaults_are_llama_cpp_pythons() -> None:
    """Of create_completion, and of the samplers that it has no argument for."""
    import inspect

    from llama_cpp import Llama

    theirs = {n: p.default for n, p in inspect.signature(Llama.create_completion).parameters.items()}
    ours = {f.name: f.default for f in dataclasses.fields(Sampling)}
    shared = (set(theirs) & set(ours)) - {"logit_bias"}
    assert {n: theirs[n] for n in shared} == {n: ours[n] for n in shared}
    assert len(shared) > 9


def test_a_family_is_renamed_wherever_a_model_is_named() -> None:
    family = Family("f", "a", (Delta("d", "b", "c", 0.5, adapter="e"), Delta("g", "h", "c")), real="a", rpc=("x:1",))
    found = family.renamed({"a": "A", "c": "C", "e": "E", "x:1": "no model"})
    assert found == Family("f", "A", (Delta("d", "b", "C", 0.5, adapter="E"), Delta("g", "h", "C")), "A", rpc=("x:1",))
    assert family.renamed({}) == family
