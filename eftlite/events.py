"""What an answer is made of, as data: one event for each token, and what it all took.

Knows nothing of models; light to import, so that a server can speak of answers without an engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Candidate:
    """One of a member's likeliest next tokens."""

    id: int
    text: str
    logprob: float
    piece: bytes = b""


@dataclass(frozen=True)
class TokenEvent:
    """One token of an answer, or its end.

    Attributes:
        id: the token; -1 when the answer ended without one (a stop by the user).
        text: what has become visible; may be empty, since UTF-8 and stop strings are held back across tokens.
        piece: the token's own bytes.
        logprob: its log-probability under the composite.
        shift: TV(tuned, composite), how far the base changed the tuned model's mind; None without a tuned model.
        origin: "plain", or for speculation "accepted", "corrected" (a draft was refused here) or "bonus".
        top: likeliest candidates, by member's name and "eft", when asked for.
        finish_reason: "stop", "length" or "cancelled" at the last event, else None.
        is_end: the token is an end token, which is no part of the text.
    """

    id: int
    text: str
    piece: bytes = b""
    logprob: float = 0.0
    shift: float | None = None
    origin: str = "plain"
    top: dict[str, tuple[Candidate, ...]] | None = None
    finish_reason: str | None = None
    is_end: bool = False


@dataclass
class DraftStatistics:
    """What became of the drafts of one answer.

    Attributes:
        lengths: how often each draft length was used.
        accepted_at, tried_at: by position in the draft, counted while every token before was accepted.
    """

    n_rounds: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    lengths: dict[int, int] = field(default_factory=dict)
    accepted_at: list[int] = field(default_factory=list)
    tried_at: list[int] = field(default_factory=list)

    def add(self, n_drafted: int, n_accepted: int) -> None:
        """Count one round."""
        self.n_rounds += 1
        self.n_drafted += n_drafted
        self.n_accepted += n_accepted
        self.lengths[n_drafted] = self.lengths.get(n_drafted, 0) + 1
        missing = n_drafted - len(self.tried_at)
        self.tried_at += [0] * missing
        self.accepted_at += [0] * missing
        for i in range(min(n_accepted + 1, n_drafted)):
            self.tried_at[i] += 1
            self.accepted_at[i] += i < n_accepted


@dataclass
class Statistics:
    """What one answer took; seconds are wall clock.

    Attributes:
        n_prompt: tokens of the base's prompt; n_reused of them were still in the cache.
        n_tokens: decoded, an end token included; n_end_tokens of them (0 or 1) is that end token.
        prompt_s: until the first token; decode_s: from there to the end.
        member_s: seconds in ``llama_decode`` by member's name, prompt included.
        shift: mean of the events' shifts.
        speculation: how drafts were made, or why there were none.
        drafts: what became of them.
    """

    n_prompt: int = 0
    n_reused: int = 0
    n_tokens: int = 0
    n_end_tokens: int = 0
    prompt_s: float = 0.0
    decode_s: float = 0.0
    member_s: dict[str, float] = field(default_factory=dict)
    shift: float | None = None
    finish_reason: str | None = None
    speculation: str = "off"
    drafts: DraftStatistics | None = None

    @property
    def tokens_per_s(self) -> float:
        """Decoding speed, the first token left out; 0 when there was no second."""
        return (self.n_tokens - 1) / self.decode_s if self.n_tokens > 1 and self.decode_s > 0 else 0.0
