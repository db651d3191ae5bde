"""How messages are written: a line of JSON each, from which an equal message is made.

Knows every class that may cross the pipe, and makes no other, whatever a line names. JSON is Python's: NaN and
infinities as such, lone surrogates escaped. What JSON has no word for is an object with the key "$".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from eftlite import errors
from eftlite.errors import EFTError, InputError
from eftlite.events import Candidate, DraftStatistics, Statistics, TokenEvent
from eftlite.server.asking import About, Ask, MemberAbout
from eftlite.server.protocol import FromWorker, LoadRequest, Scoring, ToWorker
from eftlite.settings import Delta, Family, Knobs, Limits, ModelSettings, Sampling, Speculation

# The longest line there can be: the token ids of a text of 1 MiB, the largest thing a client may send, take 8 MiB.
MAX_LINE_BYTES = 64 << 20

_TAG = "$"
_MESSAGES = (LoadRequest, *get_args(ToWorker), *get_args(FromWorker))
_PARTS = (
    *(Ask, Scoring, Knobs, Sampling, Limits, Speculation, Family, Delta, ModelSettings),
    *(About, MemberAbout, Statistics, DraftStatistics),
)
_CLASSES: dict[str, Callable[..., Any]] = {cls.__name__: cls for cls in (*_MESSAGES, *_PARTS)}
_ERRORS = {name: cls for name, cls in vars(errors).items() if isinstance(cls, type) and issubclass(cls, EFTError)}


class ProtocolError(ValueError):
    """A line is no message."""


def encode(message: LoadRequest | ToWorker | FromWorker) -> bytes:
    """The message's line, with its newline.

    Raises:
        InputError: a client's data in it are nested too deeply.
    """
    try:
        return json.dumps(_plain(message), separators=(",", ":")).encode() + b"\n"
    except RecursionError:
        raise InputError("request: expected plain data, got lists or objects nested too deeply") from None


def decode(line: bytes) -> Any:
    """The message that a line holds: equal to the one that was encoded, but for errors, which are only alike.

    Raises:
        ProtocolError: it is no message.
    """
    try:
        message = json.loads(line, object_hook=_thing)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, EFTError) as error:
        raise ProtocolError(f"expected a message, got a line of {len(line)} bytes: {error!r}") from None
    if not isinstance(message, _MESSAGES):
        raise ProtocolError(f"expected a message, got {type(message).__name__}")
    return message


def _plain(value: Any) -> Any:
    """JSON data from which ``_thing`` makes an equal value."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return {_TAG: "tuple", "of": [_plain(item) for item in value]}
    if isinstance(value, Mapping):
        if _TAG not in value and all(isinstance(key, str) for key in value):
            return {key: _plain(item) for key, item in value.items()}
        return {_TAG: "mapping", "of": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, TokenEvent):
        return {_TAG: "event", "of": _event_row(value)}
    if isinstance(value, bytes):
        return {_TAG: "bytes", "of": value.decode("latin-1")}
    if isinstance(value, EFTError):
        return {_TAG: "error", "of": _error_row(value)}
    if is_dataclass(value) and type(value).__name__ in _CLASSES:
        return {_TAG: type(value).__name__, **{f.name: _plain(getattr(value, f.name)) for f in fields(value)}}
    raise TypeError(f"expected a value that a message may hold, got {type(value).__name__}")


def _thing(data: dict[str, Any]) -> Any:
    """What an object of JSON stands for."""
    tag = data.pop(_TAG, None)
    if tag is None:
        return data
    return _READERS[tag](data["of"]) if tag in _READERS else _CLASSES[tag](**data)


# ---- events: several cross for each token, so they are rows without names


def _event_row(event: TokenEvent) -> list[Any]:
    top = None
    if event.top is not None:
        top = {
            name: [[c.id, c.text, c.logprob, c.piece.decode("latin-1")] for c in candidates]
            for name, candidates in event.top.items()
        }
    end = [event.finish_reason, event.is_end]
    return [event.id, event.text, event.piece.decode("latin-1"), event.logprob, event.shift, event.origin, top, *end]


def _event(row: list[Any]) -> TokenEvent:
    token, text, piece, logprob, shift, origin, top, finish_reason, is_end = row
    top = top and {
        name: tuple(Candidate(id_, words, value, found.encode("latin-1")) for id_, words, value, found in candidates)
        for name, candidates in top.items()
    }
    return TokenEvent(token, text, piece.encode("latin-1"), logprob, shift, origin, top, finish_reason, is_end)


# ---- errors: by the name of their class, or of the nearest one in the table


def _error_row(error: EFTError) -> list[Any]:
    cls = next(cls for cls in type(error).__mro__ if cls in _ERRORS.values())
    own = vars(error) if cls is type(error) else {}
    more = {name: _plain(value) for name, value in own.items() if name not in {"message", "hint", "__notes__"}}
    return [cls.__name__, error.message, error.hint, more]


def _error(row: list[Any]) -> EFTError:
    name, message, hint, more = row
    return _ERRORS[name](message, hint, **more)


_READERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "mapping": dict,
    "bytes": lambda text: text.encode("latin-1"),
    "event": _event,
    "error": _error,
}
