"""The doctor: asks the four questions in order, as far as the answers before allow, and sums up.

llama.cpp is not imported before a child process has shown that it works here, nor anything that imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from eftlite.doctor import child, installation
from eftlite.doctor.case import Case, NotHereError
from eftlite.doctor.findings import OK, PROBLEM, Finding, Report, Section, step
from eftlite.doctor.machine import Machine, look

if TYPE_CHECKING:
    from eftlite.doctor.measuring import Measured

FAMILY, SPEED, WORTH = "Is this family sound?", "Is it fast?", "Is EFT worth it here?"
_ESSENTIAL = frozenset({"packages", "llama.cpp", "kernels"})
# Problems of a family that do not keep it from being loaded and measured.
_HARMLESS_TO_LOAD = frozenset({"end of turn", "end tokens"})


def examine(
    case: Callable[[], Case],
    report: child.Report,
    *,
    quick: bool = False,
    machine: Callable[[], Machine] = look,
    call: Callable[..., Any] = child.call,
) -> Report:
    """Examine an installation, and a family on it.

    Args:
        case: makes the case; its errors are findings too.
        report: told what is being done.
        quick: load no models: the first question, and the second by headers.
        machine: looks at the machine.
        call: runs a function in a child process, as ``child.call`` does.
    """
    sections = [installation.examine(machine, call, report)]
    if all(one.level != PROBLEM or one.name not in _ESSENTIAL for one in sections[0].findings):
        report("reading headers")
        made: list[Case] = []
        found = step("family", lambda: _make(made, case))
        sections += _family(made[0], quick, report, call) if made else [Section("family", FAMILY, found)]
    return _report(sections)


def _make(made: list[Case], case: Callable[[], Case]) -> Iterator[Finding]:
    """Put the case into ``made``."""
    try:
        made.append(case())
    except NotHereError as error:
        yield Finding("family", PROBLEM, error.message, error.hint)


def _family(case: Case, quick: bool, report: child.Report, call: Callable[..., Any]) -> list[Section]:
    """The second question, and the others where nothing stands in their way."""
    found: tuple[Finding, ...] = ()
    if not case.random_weights:
        from eftlite.doctor import soundness

        found = soundness.examine(case)
    measured: list[Measured] = []
    if not quick and all(one.level != PROBLEM or one.name in _HARMLESS_TO_LOAD for one in found):
        found += step("loading", lambda: _measure(case, measured, report, call))
    sections = [Section("family", FAMILY, found)] if found else []
    if measured:
        from eftlite.doctor import speed, worth

        sections.append(Section("speed", SPEED, step("speed", lambda: speed.findings(measured[0], case))))
        if not case.random_weights:
            sections.append(Section("worth", WORTH, step("worth", lambda: worth.findings(measured[0], case))))
    return sections


def _measure(case: Case, measured: list[Measured], report: child.Report, call: Callable[..., Any]) -> Iterator[Finding]:
    """Put what is measured into ``measured``, and find whether answers end."""
    from eftlite.doctor import ends
    from eftlite.doctor.measuring import measure

    try:
        measured.append(call(measure, case, report=report))
    except child.ChildDiedError as error:
        reason = f": {error.last_line}" if error.last_line else ""
        yield Finding("loading", PROBLEM, f"{error.message} while the family was measured{reason}")
    else:
        yield from ends.findings(measured[0], case)


def _report(sections: Sequence[Section]) -> Report:
    return Report(tuple(sections), _verdict(sections))


def _verdict(sections: Sequence[Section]) -> str:
    """What follows, in a sentence or two: problems first, then the recommendation."""
    findings = [finding for section in sections for finding in section.findings]
    problems = [finding for finding in findings if finding.level == PROBLEM]
    if problems:
        first, more = problems[0], "" if len(problems) == 1 else f" And {len(problems) - 1} more, see above."
        text = first.text.removeprefix(f"{first.name}: ").partition(". ")[0].rstrip(".")
        return f"Not sound. {first.name}: {text}.{more}"
    sound = "Sound" if all(finding.level == OK for finding in findings) else "Sound, with warnings"
    advice = [finding.text for finding in findings if finding.name == "recommendation"]
    if advice:
        return f"{sound}. {advice[0]}."
    return f"{sound}." if sections[-1].key == "speed" else f"{sound}. Speed and worth were not measured."
