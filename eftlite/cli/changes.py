"""Commands of a conversation that change how answers are made: ``/set``, ``/alpha``, ``/beta``.

Values are checked by the settings they become; a refused one changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from eftlite.cli.options import MODES, unescape
from eftlite.errors import InputError

if TYPE_CHECKING:
    from eftlite.cli.repl import Repl

SAMPLING: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "typical_p": float,
    "repeat_penalty": float,
    "frequency_penalty": float,
    "presence_penalty": float,
    "dry_multiplier": float,
    "mirostat": int,
    "seed": int,
}
KNOBS = ("beta", "conservative_p")
KEYS = (*SAMPLING, *KNOBS, "alpha", "max_tokens", "stop", "mode")
MAY_BE_OFF = ("seed", "conservative_p", "max_tokens")
_OFF = ("off", "none")


def setting(repl: Repl, key: str) -> str:
    """A setting's value as the user writes it."""
    values = {**asdict(repl.eft.knobs), **asdict(repl.sampling), **asdict(repl.limits), "mode": repl.mode}
    value = values[key]
    if isinstance(value, tuple):
        return " ".join(repr(part) for part in value) or "none"
    return "off" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def set_value(repl: Repl, rest: str) -> None:
    """``/set KEY VALUE``."""
    key, _, text = rest.partition(" ")
    key, text = key.replace("-", "_"), text.strip()
    if key not in KEYS or not text:
        got = f"got {key[:40]!r}" if key and key not in KEYS else "for example: /set temperature 0.5"
        raise InputError(f"/set: expected one of {', '.join(KEYS)} and a value, {got}")
    if key == "alpha":
        alpha(repl, text)
        return
    _change(repl, key, text)
    repl.output.note(f"({key}: {setting(repl, key)})")


def _change(repl: Repl, key: str, text: str) -> None:
    """Change one setting that is not an alpha."""
    if key in SAMPLING:
        repl.sampling = replace(repl.sampling, **{key: _parsed(key, text, SAMPLING[key])})
    elif key in KNOBS:
        repl.eft.knobs = replace(repl.eft.knobs, **{key: _parsed(key, text, float)})
    elif key == "max_tokens":
        repl.limits = replace(repl.limits, max_tokens=_parsed(key, text, int))
    elif key == "stop":
        stops = () if text.lower() in _OFF else (*repl.limits.stop, unescape(text))
        repl.limits = replace(repl.limits, stop=stops)
    elif text not in MODES:
        raise InputError(f"mode: expected one of {', '.join(MODES)}, got {text[:40]!r}")
    else:
        repl.eft.knobs_for(text)  # raises where a base is alone and has no tuned model
        repl.mode = text


def _parsed(key: str, text: str, read: Callable[[str], Any]) -> Any:
    """A setting's value; None for "off" where that is possible."""
    if key in MAY_BE_OFF and text.lower() in _OFF:
        return None
    try:
        return read(text)
    except ValueError:
        kind = "whole number" if read is int else "number"
        raise InputError(f"{key}: expected a {kind}, got {text[:40]!r}") from None


def alpha(repl: Repl, rest: str) -> None:
    """``/alpha X``, ``/alpha NAME X``, or to look: ``/alpha``."""
    names = [delta.name for delta in repl.eft.family.deltas]
    if not names:
        raise InputError("alpha: expected a family with a delta, got a base alone")
    words = rest.split()
    name = words[0] if len(words) > 1 else names[0]
    if len(words) > 2 or name not in names:
        raise InputError(f"/alpha: expected a value, or one of {', '.join(names)} and a value, got {rest[:40]!r}")
    if words:
        value = _parsed("alpha", words[-1], float)
        repl.eft.knobs = repl.eft.knobs.with_alpha(names.index(name), value)
    alphas = zip(names, repl.eft.knobs.alphas, strict=True)
    repl.output.note(f"(alpha: {', '.join(f'{delta} {value:g}' for delta, value in alphas)})")


def beta(repl: Repl, text: str) -> None:
    """``/beta X``, or to look: ``/beta``."""
    if text:
        _change(repl, "beta", text)
    repl.output.note(f"(beta: {setting(repl, 'beta')})")
