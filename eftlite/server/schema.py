"""What a body's fields are made of, and how a body is read: a field that is wrong is refused by its name.

Knows JSON and bounds; never routes or an engine. Types are strict: "1" and true are no numbers. Fields that a model
does not have are ignored, since clients send many, unless the model says otherwise. Bounds are those of settings.py.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from eftlite.errors import InputError

Unit = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=-100, le=100)]
UpTo100 = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0, le=1 << 30)]
TokenId = Annotated[int, Field(ge=0, le=1 << 24)]


class FieldError(InputError):
    """A field of a request cannot be used.

    Attributes:
        param: the field, as a path into the body; None means the body itself.
        code: OpenAI's, where there is one.
    """

    def __init__(self, message: str, param: str | None = None, hint: str = "", code: str | None = None) -> None:
        super().__init__(message, hint)
        self.param, self.code = param, code


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True)


Model = TypeVar("Model", bound=Body)

# What was expected, by pydantic's names of what is wrong.
_EXPECTED = {
    "missing": "a value, got none",
    "extra_forbidden": "no such field",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "an integer",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "content_missing": "content, got none",
}


def parse(model: type[Model], data: Any) -> Model:
    """A body as ``model``.

    Raises:
        FieldError: a field is missing, unknown inside ``eft``, of another type, or out of bounds. It names the field,
            never its value.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems: dict[tuple[str | int, ...], list[str]] = {}
        for detail in error.errors(include_url=False, include_input=False):
            expected = _EXPECTED.get(detail["type"], "something else").format(**detail.get("ctx", {}))
            problems.setdefault(_path(detail, data), []).append(expected)
        path = max(problems, key=len)  # of what the alternatives of a union complain of the most specific
        param = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:40]}" for step in path).removeprefix(".")
        message = f"{param or 'body'}: expected {' or '.join(dict.fromkeys(problems[path]))}"
        raise FieldError(message, param or None) from None


def _path(detail: ErrorDetails, data: Any) -> tuple[str | int, ...]:
    """Where in the body the error is: pydantic's location without the names of the alternatives it tried."""
    path: list[str | int] = []
    for step in detail["loc"]:
        try:
            data = data[step]
        except (TypeError, LookupError):
            if detail["type"] != "missing" or step != detail["loc"][-1]:
                continue
        path.append(step)
    return tuple(path)
