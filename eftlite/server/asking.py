"""What the server asks of an engine, and what an engine tells: plain data, the same on both sides of the pipe.

Knows settings and events; never HTTP, and never models.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from eftlite.errors import InputError
from eftlite.events import Statistics, TokenEvent
from eftlite.settings import Knobs, Limits, Sampling, Speculation

if TYPE_CHECKING:
    from typing_extensions import Self

MODES = ("eft", "base", "tuned", "reference")


@dataclass(frozen=True)
class MemberAbout:
    """One loaded model, for people.

    Attributes:
        name: its role: base, tuned, reference, tuned:NAME …
        file: the file's name, without its folder.
        description: llama.cpp's, e.g. "llama 1B Q8_0".
        n_params: parameters.
        size_bytes: of the weights.
        n_ctx_train: tokens of context it was trained for.
    """

    name: str
    file: str
    description: str
    n_params: int
    size_bytes: int
    n_ctx_train: int


@dataclass(frozen=True)
class About:
    """What a loaded engine is.

    Attributes:
        family: its name, which is also the model's name for clients.
        members: the base first.
        deltas: each delta's name.
        knobs: in force when a request names none.
        speculation: likewise.
        n_ctx, n_vocab, n_slots: tokens of context, length of the common vocabulary, texts at a time.
        template: the chat template's source.
        bos, eos: texts of the tokens that begin and end a text; empty where there is none.
        notes: harmless differences between vocabularies.
        build: versions and devices, by name.
    """

    family: str
    members: tuple[MemberAbout, ...]
    deltas: tuple[str, ...]
    knobs: Knobs
    speculation: Speculation
    n_ctx: int
    n_vocab: int
    n_slots: int
    template: str
    bos: str = ""
    eos: str = ""
    notes: tuple[str, ...] = ()
    build: Mapping[str, str] = field(default_factory=dict)

    @property
    def modes(self) -> tuple[str, ...]:
        """Who can answer: EFT and each role alone; a base alone is only itself."""
        return MODES if self.deltas else ("base",)


@dataclass(frozen=True)
class Ask:
    """One answer to be made: either ``messages`` or ``prompt`` is given.

    Attributes:
        messages: a conversation, ending with the user's turn.
        prompt: a text or token ids to continue.
        knobs: complete, see ``knobs_of``.
        sampling, limits: as for ``EFT``; a grammar stands in ``sampling``.
        response_format: OpenAI's, turned into a grammar by the engine.
        speculation: None takes the engine's.
        tools: passed to the template.
    """

    knobs: Knobs
    messages: Sequence[Mapping[str, Any]] | None = None
    prompt: str | Sequence[int] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    response_format: Mapping[str, Any] | None = None
    speculation: Speculation | None = None
    tools: Sequence[Mapping[str, Any]] | None = None


def knobs_of(
    about: About,
    mode: str = "eft",
    *,
    alpha: float | None = None,
    beta: float | None = None,
    conservative_p: float | None = None,
    deltas: Mapping[str, float] | None = None,
    temperature: float | None = None,
    start: Knobs | None = None,
) -> Knobs:
    """Complete knobs from those that a request names.

    Args:
        about: the engine's family and defaults.
        mode: who answers; a member alone has no knobs.
        alpha: the first delta's strength.
        beta: weight of the up-scaling delta.
        conservative_p: 0 switches it off.
        deltas: strengths by delta's name.
        temperature: in place of the sampling's; not only for EFT.
        start: what is changed; the engine's own by default.

    Raises:
        InputError: an unknown mode or delta, a knob for a member alone, a value out of range.
    """
    if mode not in about.modes:
        raise InputError(f"mode: expected one of {', '.join(about.modes)}, got {mode!r}")
    given = [
        name
        for name, value in (("alpha", alpha), ("beta", beta), ("conservative_p", conservative_p))
        if value is not None
    ]
    given += ["deltas"] * bool(deltas)
    heat: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    if mode != "eft":
        if given:
            raise InputError(f"{given[0]}: expected only with mode eft, got it with mode {mode}")
        return replace(start or Knobs.alone(mode, len(about.deltas)), **heat)
    knobs = start or about.knobs
    alphas = list(knobs.alphas)
    if alpha is not None:
        alphas[0] = alpha
    for name, strength in (deltas or {}).items():
        if name not in about.deltas:
            raise InputError(f"deltas: expected {', '.join(about.deltas)}, got {name[:40]!r}")
        alphas[about.deltas.index(name)] = strength
    changes: dict[str, Any] = {"alphas": tuple(alphas), **heat}
    if beta is not None:
        changes["beta"] = beta
    if conservative_p is not None:
        changes["conservative_p"] = conservative_p or None
    return replace(knobs, **changes)


class Running(Protocol):
    """An answer that is being made. Leaving its ``async with`` ends it.

    Attributes:
        seed: draws the same answer again; known when the first event has come.
        statistics: known when the events are exhausted, also after a stop.
        knobs: in force now.
    """

    seed: int
    statistics: Statistics
    knobs: Knobs

    def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """The events; EFTError when it cannot go on."""

    async def set_knobs(self, knobs: Knobs) -> None:
        """Change the knobs from the next token on."""

    async def stop(self) -> None:
        """End it; the events end with one whose ``finish_reason`` is "cancelled"."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *details: object) -> None: ...


class Engine(Protocol):
    """What answers. All methods raise EFTError and its subclasses only.

    Attributes:
        state: "loading", "ready", "restarting" (it died and is being loaded again), or "failed" (it cannot be
            loaded; ``failure`` says why) or "closed".
        about: None until it was loaded once.
        n_running, n_waiting: answers at this moment.
        n_restarts: how often the child was replaced.
    """

    state: str
    failure: str
    about: About | None
    n_running: int
    n_waiting: int
    n_restarts: int

    async def start(self) -> None:
        """Start loading; returns at once."""

    async def close(self) -> None:
        """End everything."""

    async def ready(self, timeout_s: float) -> About:
        """Wait until it is loaded; UnavailableError after the time."""

    async def answer(self, ask: Ask, client: str = "") -> Running:
        """Queue an answer; returns at once.

        Args:
            ask: what.
            client: whose turn it is, for fairness among waiting answers; any text.

        Raises:
            BusyError: too many are waiting.
            UnavailableError: it is loading, restarting or has failed.
        """

    async def tokenize(self, text: str, add_bos: bool, special: bool) -> list[int]:
        """Token ids of a text."""

    async def detokenize(self, tokens: Sequence[int], special: bool = False) -> bytes:
        """Bytes of token ids."""

    async def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> str:
        """The prompt that a conversation becomes."""

    async def score(self, prompt: str | Sequence[int], knobs: Knobs, n_top: int, client: str = "") -> list[TokenEvent]:
        """Each token of a prompt with its log-probability under the composite, given those before it.

        The first event's ``logprob`` is NaN: nothing stands before it. ``top`` has the key "eft" only.
        """

    async def memory(self) -> dict[str, int]:
        """Bytes: "resident" of the engine's process."""
