"""All members kept on the same text: prompts, steps, drafts to be scored, rewinding.

A slot's text is one prompt for each member and one continuation for all. A member evaluates lazily: it is brought up
to date when its logits are asked for, so a member that the knobs do not need costs nothing, and a knob that is turned
up in the middle of an answer makes it catch up in one batch. Prefix reuse, steps and rewinds are the same move:
make the cache a prefix of the text, then decode the rest.

Knows token ids; never text, knobs or laws.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import takewhile

from eftlite.composite import Roles, Row
from eftlite.errors import ContextError, EngineError
from eftlite.member import Member
from eftlite.vocab import SharedVocabulary


class Text:
    """What a slot holds: a prompt for each member, and the continuation that they share."""

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        self.prompts = [list(prompt) for prompt in prompts]
        self.answer: list[int] = []

    def length(self, member: int) -> int:
        """Tokens of the text as this member sees it."""
        return len(self.prompts[member]) + len(self.answer)

    def tail(self, member: int, start: int) -> list[int]:
        """The member's token ids from ``start`` on."""
        prompt = self.prompts[member]
        return prompt[start:] + self.answer if start < len(prompt) else self.answer[start - len(prompt) :]


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


class Ensemble:
    """The members of a family on the same slots.

    Args:
        members: each with the same number of slots; one member may play several roles.
        roles: who plays what.
        shared: the common vocabulary.
        side_by_side: evaluate members at the same time, in a thread each; for members on devices of their own.
    """

    def __init__(
        self, members: Sequence[Member], roles: Roles, shared: SharedVocabulary, side_by_side: bool = False
    ) -> None:
        self.members = list(members)
        self.roles = roles
        self.shared = shared
        self.n_vocab = shared.n_vocab
        self.n_ctx = min(member.n_ctx for member in members)
        self.texts = [Text([[]] * len(self.members)) for _ in members[0].slots]
        self._threads = ThreadPoolExecutor(len(members), "member") if side_by_side else None

    # ---- the text

    def begin(self, slot: int, prompts: Sequence[Sequence[int]]) -> int:
        """Put a new text into a slot, keeping what its caches already hold of it.

        Args:
            prompts: token ids for each member, at least one each.

        Returns:
            Tokens that no longer need evaluating, counted for the base.

        Raises:
            ContextError: a prompt does not fit.
        """
        for member, prompt in zip(self.members, prompts, strict=True):
            if len(prompt) >= member.n_ctx:
                raise ContextError(
                    f"prompt: expected fewer than {member.n_ctx} tokens, the context of {member.name}, "
                    f"got {len(prompt)}",
                    "Shorten it or use a larger n_ctx",
                    n_prompt=len(prompt),
                    n_ctx=member.n_ctx,
                )
        self.texts[slot] = Text(prompts)
        kept = [
            member.rewind(slot, _common_prefix(member.slots[slot], prompt))
            for member, prompt in zip(self.members, prompts, strict=True)
        ]
        return kept[self.roles.base]

    def n_cached(self, slot: int, prompts: Sequence[Sequence[int]]) -> int:
        """Tokens of the base's prompt that its cache holds already."""
        base = self.roles.base
        return _common_prefix(self.members[base].slots[slot], prompts[base])

    def append(self, slot: int, token: int) -> None:
        """Continue the text; nothing is evaluated yet."""
        self.texts[slot].answer.append(token)

    def room(self, slot: int) -> int:
        """Tokens that can still be appended and evaluated before a member's context is full."""
        text = self.texts[slot]
        return min(member.n_ctx - text.length(index) for index, member in enumerate(self.members))

    # ---- evaluating

    def rows(self, slot: int, needed: Iterable[int]) -> list[Row | None]:
        """Logits after the text: for each needed member a view (n_vocab,) float32, None for the others."""
        rows: list[Row | None] = [None] * len(self.members)
        needed = list(needed)
        self.advance_all(slot, needed)
        for index in needed:
            rows[index] = self.row(slot, index, 0)
        return rows

    def advance_all(self, slot: int, indices: Sequence[int], draft: Sequence[int] = (), n_rows: int = 1) -> None:
        """``advance`` for several members: one after the other, or side by side on devices of their own."""
        if self._threads is None or len(indices) == 1:
            for index in indices:
                self.advance(slot, index, draft, n_rows)
            return
        jobs = [self._threads.submit(self.advance, slot, index, draft, n_rows) for index in indices]
        wait(jobs)  # all of them, also when one fails: no member may be left running
        for job in jobs:
            job.result()

    def advance(self, slot: int, index: int, draft: Sequence[int] = (), n_rows: int = 1) -> None:
        """Have a member evaluate what it lacks of the text and then of ``draft``, keeping the last ``n_rows`` rows."""
        member, text = self.members[index], self.texts[slot]
        end = text.length(index) + len(draft)
        if all(member.has_row(slot, end - back) for back in range(n_rows)):
            return
        start = member.rewind(slot, min(len(member.slots[slot]), end - n_rows))
        tail = text.tail(index, start)
        known = max(start - text.length(index), 0)
        member.decode(slot, [*tail, *draft[known:]], n_rows)

    def row(self, slot: int, index: int, n_drafted: int) -> Row:
        """A member's logits after the text and ``n_drafted`` drafted tokens, which it has evaluated before."""
        row: Row = self.members[index].row(slot, self.texts[slot].length(index) + n_drafted)
        return row[: self.n_vocab]

    def settle(self, slot: int, tokens: Sequence[int]) -> None:
        """Continue the text by ``tokens``; every cache drops drafted tokens that are not among them."""
        text = self.texts[slot]
        for index, member in enumerate(self.members):
            length = text.length(index)
            drafted = member.slots[slot][length:]
            if drafted:
                member.rewind(slot, length + _common_prefix(drafted, tokens))
        text.answer.extend(tokens)

    def clear(self, slot: int) -> None:
        """Forget a slot's text in every member."""
        for member in self.members:
            member.clear(slot)
        self.texts[slot] = Text([[]] * len(self.members))

    # ---- its soundness

    def validate(self, slot: int) -> None:
        """Check that every cache is a prefix of its text and that llama.cpp agrees; EngineError when not."""
        text = self.texts[slot]
        for index, member in enumerate(self.members):
            held = member.slots[slot]
            if held != text.tail(index, 0)[: len(held)]:
                raise EngineError(f"{member.name}, slot {slot}: its cache is not a prefix of the text")
            member.validate(slot)

    @property
    def side_by_side(self) -> bool:
        """Whether members are evaluated at the same time."""
        return self._threads is not None

    @property
    def can_rewind(self) -> bool:
        """Whether every member can drop a part of a slot."""
        return all(member.can_rewind for member in self.members)

    def close(self) -> None:
        """Free every context."""
        if self._threads is not None:
            self._threads.shutdown()
        for member in self.members:
            member.close()
