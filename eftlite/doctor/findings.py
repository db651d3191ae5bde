"""What a doctor says: findings under questions, and a step that fails without taking the report with it.

Knows words and levels; never machines or models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from eftlite.errors import EFTError

OK, WARNING, PROBLEM = "ok", "warning", "problem"
LEVELS = (OK, WARNING, PROBLEM)  # by gravity


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: a word or two, stable, for programs too.
        level: one of ``LEVELS``.
        text: a sentence.
        fix: the command or the line that mends it; empty where nothing is to be done, or nothing can be.
        facts: figures behind the sentence, as JSON takes them.
    """

    name: str
    level: str
    text: str
    fix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A question with its findings."""

    key: str
    question: str
    findings: tuple[Finding, ...]

    @property
    def level(self) -> str:
        """The gravest of its findings'."""
        return max((finding.level for finding in self.findings), key=LEVELS.index, default=OK)


@dataclass(frozen=True)
class Report:
    """Everything that was found, and what follows from it.

    Attributes:
        verdict: a sentence or two.
    """

    sections: tuple[Section, ...]
    verdict: str

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong; warnings are no harm."""
        return all(section.level != PROBLEM for section in self.sections)

    def as_json(self) -> dict[str, Any]:
        """Stable keys, values that JSON takes."""
        sections = {
            section.key: {"level": section.level, "findings": [asdict(finding) for finding in section.findings]}
            for section in self.sections
        }
        return {"sound": self.sound, "verdict": self.verdict, "sections": sections}


def step(name: str, look: Callable[[], Iterable[Finding]], fix: str = "") -> tuple[Finding, ...]:
    """The findings of one step; an error of any kind is a finding itself, so that the others are still reported.

    Args:
        fix: what may mend an error that nobody foresaw.
    """
    found: list[Finding] = []
    try:
        found.extend(look())
    except EFTError as error:
        found.append(of_error(name, error))
    except Exception as error:  # noqa: BLE001  what is broken may break anywhere, and the report must not
        words = " ".join(str(error).split())
        found.append(Finding(name, PROBLEM, f"Could not be looked at: {type(error).__name__}: {words[:300]}", fix))
    return tuple(found)


def of_error(name: str, error: EFTError) -> Finding:
    """A user's error as a finding: its message, then its hint."""
    text = f"{error.message}. {error.hint}" if error.hint else error.message
    return Finding(name, PROBLEM, text, facts={"error": type(error).__name__})
