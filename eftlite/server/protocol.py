"""The messages between the server and the engine's process; wire.py writes them.

Knows plain data; never pipes, processes or models. Both ends are the same version of this package, so there is none
to negotiate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eftlite.errors import EFTError
from eftlite.events import Statistics, TokenEvent
from eftlite.server.asking import About, Ask
from eftlite.settings import Family, Knobs, ModelSettings, Speculation

# Events of one answer that may be under way; the answer pauses until its client takes some.
WINDOW = 128
# Seconds between two beats.
BEAT_S = 0.25

# ---- to the engine's process


@dataclass(frozen=True)
class LoadRequest:
    """What to load: arguments of ``EFT``, by their names."""

    family: Family | str | None = None
    n_ctx: int | None = None
    n_slots: int = 4
    alpha: float | None = None
    beta: float = 1.0
    conservative_p: float | None = None
    speculative: bool | Speculation = True
    drafter: str | None = None
    settings: ModelSettings | Mapping[str, ModelSettings] | None = None
    template: str | None = None
    prompt_style: str = "template"


@dataclass(frozen=True)
class Scoring:
    """A given text whose tokens are to be scored, see ``Engine.score``."""

    prompt: str | Sequence[int]
    knobs: Knobs
    n_top: int


@dataclass(frozen=True)
class Begin:
    """Begin an answer; never more of them than there are slots."""

    id: int
    what: Ask | Scoring


@dataclass(frozen=True)
class Stop:
    """End an answer now, inside a decode if need be."""

    id: int


@dataclass(frozen=True)
class SetKnobs:
    """Change an answer's knobs from its next token on."""

    id: int
    knobs: Knobs


@dataclass(frozen=True)
class Credit:
    """So many events of an answer were taken; as many more may be sent."""

    id: int
    n_events: int


@dataclass(frozen=True)
class Tokenize:
    """Ask for a text's token ids."""

    id: int
    text: str
    add_bos: bool
    special: bool


@dataclass(frozen=True)
class Detokenize:
    """Ask for the bytes of token ids."""

    id: int
    tokens: Sequence[int]
    special: bool


@dataclass(frozen=True)
class Render:
    """Ask for the prompt that a conversation becomes."""

    id: int
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None


Call = Tokenize | Detokenize | Render
ToWorker = Begin | Stop | SetKnobs | Credit | Call

# ---- from it


@dataclass(frozen=True)
class Beat:
    """It lives.

    Attributes:
        n_steps: steps of answers, and reports of loading, so far.
        decode_s: seconds spent in ``llama_decode`` so far; grows within the step that reads a long prompt.
        doing: "importing", "loading", "answering" or "idle".
    """

    n_steps: int
    decode_s: float
    doing: str


@dataclass(frozen=True)
class Progress:
    """How far a member is loaded, 0..1."""

    member: str
    done: float


@dataclass(frozen=True)
class Loaded:
    """Answers may begin."""

    about: About


@dataclass(frozen=True)
class LoadFailed:
    """It cannot be loaded, or not go on without another machine; the process ends."""

    error: EFTError


@dataclass(frozen=True)
class Began:
    """An answer has its slot and its seed."""

    id: int
    seed: int


@dataclass(frozen=True)
class Events:
    """What one step of an answer gave."""

    id: int
    events: tuple[TokenEvent, ...]


@dataclass(frozen=True)
class Ended:
    """An answer is over, its slot free; with an error when it could not go on."""

    id: int
    statistics: Statistics
    error: EFTError | None = None


@dataclass(frozen=True)
class Reply:
    """The value that a call asked for, or why there is none."""

    id: int
    value: Any = None
    error: EFTError | None = None


FromWorker = Beat | Progress | Loaded | LoadFailed | Began | Events | Ended | Reply
