"""What the doctor is asked about: a family, how it is loaded, how a user names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eftlite.errors import HubError
from eftlite.settings import Family, Knobs, ModelSettings

# Short answers are asked for, so that their ends are seen; some need knowledge, some manners.
QUESTIONS = (
    "What is the capital of Australia? Answer in one sentence.",
    "Who wrote Don Quixote, and when? Answer briefly.",
    "Name three fruits.",
    "Why is the sky blue? Explain it in two sentences.",
    "Give me one tip for sleeping better.",
    "Thank you, that is all. Say goodbye in one sentence.",
)


class NotHereError(HubError):
    """Models of the family are not on this machine; the hint is the command that fetches them."""


@dataclass(frozen=True)
class Case:
    """A family to be examined.

    Attributes:
        settings: of every member, or by role, as loading takes them.
        n_ctx: tokens of context, as loading takes them.
        naming: the options that name this family on a command line, e.g. "--family mine.toml"; empty for the bundled.
        questions: what it is asked.
        random_weights: of a shape: only its speed means anything.
        bundled: its template is the project's own.
    """

    family: Family
    settings: ModelSettings | Mapping[str, ModelSettings]
    n_ctx: int | None = None
    naming: str = ""
    questions: tuple[str, ...] = QUESTIONS
    random_weights: bool = False
    bundled: bool = False

    @property
    def knobs(self) -> Knobs:
        """The family's own."""
        return Knobs(tuple(delta.alpha for delta in self.family.deltas))

    def command(self, verb: str, *more: str) -> str:
        """A command line about this family."""
        return " ".join(("eftlite", verb, *([self.naming] if self.naming else []), *more))


def here(family: Family, naming: str) -> Family:
    """The family with paths of this machine for references of the hub; nothing is downloaded.

    Raises:
        NotHereError: some of its models would have to be.
    """
    from eftlite.hub import find, localize, references

    missing = [text for text, reference in references(family).items() if find(reference) is None]
    if missing:
        message = f"{', '.join(missing)}: not on this machine yet"
        raise NotHereError(message, f"eftlite pull {naming}".rstrip())
    return localize(family)
