"""Families that ail: the bundled one with a few bytes of its files changed, and machines that are not here."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from eftlite.doctor import measuring
from eftlite.doctor.build import Build
from eftlite.doctor.case import Case
from eftlite.doctor.findings import Finding, Report
from eftlite.doctor.machine import Machine
from eftlite.doctor.verdict import examine
from eftlite.settings import Delta, Family, ModelSettings

QUESTIONS = ("Where can I find Oakworth?", "When was Jashaven founded?", "What is Ashhaven known for?")
HERE = Machine("Linux", "x86_64", features=frozenset({"avx", "avx2"}), free_bytes=8 << 30, total_bytes=16 << 30)
BUILD = Build("0.5.0", "0.3.36", frozenset({"AVX", "AVX2"}), devices=({"name": "CPU"},))


def renamed(source: Path, target: Path, *pairs: tuple[bytes, bytes]) -> str:
    """A copy of a model with texts of equal length in place of others, wherever they stand."""
    data = source.read_bytes()
    for old, new in pairs:
        assert old in data
        assert len(old) == len(new)
        data = data.replace(old, new)
    target.write_bytes(data)
    return str(target)


def other_token(source: Path, target: Path, token: bytes, text: bytes) -> str:
    """A copy of a model in whose vocabulary one token has another text of equal length."""
    entry = struct.pack("<Q", len(token))
    return renamed(source, target, (entry + token, entry + text))


def other_number(source: Path, target: Path, key: bytes, old: int, new: int) -> str:
    """A copy of a model with another value under a key of type uint32."""
    return renamed(source, target, (key + struct.pack("<II", 4, old), key + struct.pack("<II", 4, new)))


def never_ending(source: Path, target: Path, token: int = 4) -> str:
    """A copy of a model that hates to write its end token: this row of its output matrix points the other way."""
    shutil.copyfile(source, target)
    tensors = {tensor.name: tensor for tensor in GGUFReader(target, "r+").tensors}
    matrix = tensors.get("output.weight", tensors["token_embd.weight"])
    matrix.data[token] *= -1  # mapped from the file
    return str(target)


def case(base: Path | str, tuned: Path | str, reference: Path | str, alpha: float = 1.0, **more: Any) -> Case:
    """A family of one delta, on one thread, asked about the bundled world."""
    family = Family("ill", str(base), (Delta("helpful", str(tuned), str(reference), alpha),))
    return Case(family, ModelSettings(n_threads=1), questions=QUESTIONS, **more)


def in_this_process(function: Callable[..., Any], *arguments: Any, report: Any, limit_s: float | None = None) -> Any:
    """``child.call`` without a child, on a machine where nothing else runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "busy_share", lambda: 0.0)
        return function(*arguments, report)


def examined(
    subject: Case | Callable[[], Case], machine: Machine = HERE, build: Build | None = BUILD, **more: Any
) -> Report:
    """The doctor's report on a family, on this machine and build; build None asks the real one."""

    def call(function: Callable[..., Any], *arguments: Any, report: Any, limit_s: float | None = None) -> Any:
        if build is not None and function.__name__ == "probe":
            return build
        return in_this_process(function, *arguments, report=report)

    make = subject if callable(subject) else lambda: subject
    return examine(make, lambda _: None, **{"machine": lambda: machine, "call": call, **more})


def found(report: Report, name: str, section: str | None = None) -> Finding:
    """The finding of this name; AssertionError with all of them when there is none."""
    all_found = [one for part in report.sections if section in (None, part.key) for one in part.findings]
    for one in all_found:
        if one.name == name:
            return one
    raise AssertionError(f"no {name} among {all_found}")


def levels(report: Report) -> dict[str, str]:
    """The gravest level of each section."""
    return {section.key: section.level for section in report.sections}
