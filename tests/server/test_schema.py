"""Reading a body: errors name the field by its path, say what was expected, and never what came."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from eftlite.server.schema import Body, FieldError, parse


class Inner(Body):
    """A part."""

    name: str
    kind: Literal["a", "b"] = "a"


class Outer(Body):
    """A body with a field of each kind."""

    number: Annotated[float, Field(ge=0, le=1)] | None = None
    count: int | None = None
    flag: bool | None = None
    text: Annotated[str, Field(min_length=2, max_length=4)] | None = None
    texts: str | Annotated[list[str], Field(min_length=1, max_length=2)] | None = None
    inner: Inner | list[Inner] | None = None
    named: dict[Annotated[str, Field(pattern="^[a-z]+$")], float] | None = None


SECRET = "my-secret"
WRONG: list[tuple[Any, str | None, str]] = [
    ({"number": SECRET}, "number", "number: expected a number"),
    ({"number": True}, "number", "number: expected a number"),
    ({"number": "1"}, "number", "number: expected a number"),
    ({"number": -0.5}, "number", "number: expected at least 0.0"),
    ({"number": 1e308}, "number", "number: expected at most 1.0"),
    ({"number": float("nan")}, "number", "number: expected a finite number"),
    ({"number": float("inf")}, "number", "number: expected a finite number"),
    ({"count": 1.5}, "count", "count: expected an integer"),
    ({"count": True}, "count", "count: expected an integer"),
    ({"flag": 1}, "flag", "flag: expected true or false"),
    ({"text": 5}, "text", "text: expected a string"),
    ({"text": "x"}, "text", "text: expected at least 2 characters"),
    ({"text": SECRET}, "text", "text: expected at most 4 characters"),
    ({"texts": 5}, "texts", "texts: expected a string or a list"),
    ({"texts": [SECRET, 5]}, "texts[1]", "texts[1]: expected a string"),
    ({"texts": []}, "texts", "texts: expected a string or at least 1 entries"),
    ({"texts": ["a"] * 3}, "texts", "texts: expected a string or at most 2 entries"),
    ({"inner": 5}, "inner", "inner: expected an object or a list"),
    ({"inner": {}}, "inner.name", "inner.name: expected a value, got none"),
    ({"inner": [{"name": "x"}, {}]}, "inner[1].name", "inner[1].name: expected a value, got none"),
    ({"inner": {"name": "x", "kind": SECRET}}, "inner.kind", "inner.kind: expected 'a' or 'b'"),
    ({"named": []}, "named", "named: expected an object"),
    ({"named": {"a": SECRET}}, "named.a", "named.a: expected a number"),
    ({"named": {"A": 1.0}}, "named.A", "named.A: expected text that matches ^[a-z]+$"),
    ([], None, "body: expected an object"),
    (SECRET, None, "body: expected an object"),
    (None, None, "body: expected an object"),
]  # fmt: skip  # a table


@pytest.mark.parametrize(("data", "param", "message"), WRONG)
def test_what_is_wrong_is_named_and_not_quoted(data: Any, param: str | None, message: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse(Outer, data)
    assert (caught.value.param, str(caught.value)) == (param, message)
    assert (caught.value.http_status, caught.value.kind) == (400, "invalid_request_error")
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_fields_that_nobody_knows_are_ignored() -> None:
    """Clients send many."""
    assert parse(Outer, {"store": True, "number": None}) == Outer()


def test_long_names_are_cut() -> None:
    with pytest.raises(FieldError) as caught:
        parse(Outer, {"named": {"a" * 1000: "x"}})
    assert len(str(caught.value)) < 100


def test_numbers_may_be_written_either_way() -> None:
    assert parse(Outer, {"number": 1}).number == 1.0


def test_a_kind_of_error_without_words_still_names_its_field() -> None:
    class Odd(Body):
        """With a constraint that no body of ours has."""

        number: Annotated[int, Field(multiple_of=2)]

    with pytest.raises(FieldError, match=r"^number: expected something else$"):
        parse(Odd, {"number": 3})
