"""The slots of the engine's process: which are free, and which of them suits a prompt.

Knows prompts and what caches hold; never answers or whose turn it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eftlite.server.asking import Ask
from eftlite.server.protocol import Scoring

if TYPE_CHECKING:
    from eftlite.eft import EFT


class Slots:
    """Free slots.

    A conversation that goes on finds its own cache again, and a new one takes the slot that was used longest ago. That
    both begin with the same system text is no reason for it to overwrite the other: what a cache holds must be worth
    more to the prompt than what it would lose, or the prompt must be in it already, to be answered once more.
    """

    def __init__(self, n_slots: int) -> None:
        self._n_held = dict.fromkeys(range(n_slots), 0)  # tokens, by slot; the one used longest ago first

    def take(self, eft: EFT, what: Ask | Scoring) -> int:
        """The best slot for an answer; ValueError when none is free."""
        slot = self._best(eft, what)
        del self._n_held[slot]
        return slot

    def give_back(self, slot: int, n_held: int) -> None:
        """A slot is free again, its cache holding so many tokens; one that holds nothing of use comes first."""
        self._n_held = {**self._n_held, slot: n_held} if n_held else {slot: 0, **self._n_held}

    def _best(self, eft: EFT, what: Ask | Scoring) -> int:
        oldest, *others = self._n_held
        if not others or isinstance(what, Scoring):  # scoring keeps nothing of a cache
            return oldest
        prompts = _prompts(eft, what)
        n_common = {slot: eft.n_cached(prompts, slot) for slot in self._n_held}
        best = max(n_common, key=lambda slot: n_common[slot])
        again = n_common[best] >= len(prompts[0]) - 1
        return best if again or 2 * n_common[best] >= self._n_held[best] else oldest


def _prompts(eft: EFT, ask: Ask) -> list[list[int]]:
    """Token ids for each member, near enough to compare them with caches."""
    if ask.messages is not None:
        return eft.chat_prompts(ask.messages, ask.tools)
    prompt = ask.prompt or ()
    ids = eft.tokenize(prompt.encode(errors="replace"), special=True) if isinstance(prompt, str) else prompt
    return [list(ids)] * len(eft.members)
