"""Verification: what the hub says of the files that presets name, and whether those files are one family.

Listings and headers are fetched, never weights. What was found right becomes marks, which presets.py reads.

Not guaranteed: that the weights are those of the model the name promises, or any good.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from eftlite import gguf, hub
from eftlite.errors import EFTError, InputError
from eftlite.facts import MARKS, File, read_marks
from eftlite.hub.reference import Reference, parse
from eftlite.inspection import count, relate, size, vocabulary
from eftlite.presets import Preset, references, toml
from eftlite.template import BUILTIN, Template

MAX_PARAMS_ERROR = 0.3  # some files hold the output matrix twice, others a head for drafting
_SHA256_CHARS = 64  # the hub names small files by git's hash, which is shorter
_HEAD = f"# {MARKS}: what `eftlite presets verify --write` found on the hub. Not written by hand.\n"
_CONVERSATION = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Who are you?"},
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what, whether it is right, and in words what was found."""

    subject: str
    ok: bool
    text: str


@dataclass(frozen=True)
class Verdict:
    """What was found of a preset.

    Attributes:
        findings: of each file, then of all together.
        files: those found right, as they are on the hub.
        vocabulary: tokens the models share, if they do.
    """

    preset: Preset
    findings: tuple[Finding, ...]
    files: tuple[File, ...] = ()
    vocabulary: int | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.ok for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Stable keys, values that JSON takes."""
        return {
            "name": self.preset.name,
            "ok": self.ok,
            "vocabulary": self.vocabulary,
            "findings": [{"subject": one.subject, "ok": one.ok, "text": one.text} for one in self.findings],
            "files": [file.as_json() for file in self.files],
        }


@dataclass(frozen=True)
class _Look:
    """What was found of one file; no header where there is none to read."""

    findings: tuple[Finding, ...]
    file: File | None = None
    header: gguf.Header | None = None

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)


class Verifier:
    """Verifies presets, each file once however many name it.

    Args:
        today: the day to write on marks; the local one by default.
    """

    def __init__(self, today: str | None = None) -> None:
        self._today = today or date.today().isoformat()  # noqa: DTZ011  the user's own calendar day is meant
        self._looks: dict[str, _Look] = {}

    def verify(self, preset: Preset) -> Verdict:
        """Look at each of a preset's files, then at all of them together; errors become findings."""
        adapters = {preset.family.adapter, *(delta.adapter for delta in preset.family.deltas)}
        looks = {file.reference: self._look(file, file.reference in adapters) for file in preset.files}
        findings = [finding for look in looks.values() for finding in look.findings]
        files = tuple(look.file for look in looks.values() if look.file and look.ok)
        headers = {text: look.header for text, look in looks.items() if look.header}
        if len(headers) < len([text for text in looks if text not in adapters]):
            return Verdict(preset, tuple(findings), files)
        shared, together = _together(preset, headers)
        return Verdict(preset, (*findings, *together), files, shared)

    def _look(self, known: File, is_adapter: bool) -> _Look:
        if known.reference not in self._looks:
            try:
                self._looks[known.reference] = self._ask(known, is_adapter)
            except EFTError as error:
                self._looks[known.reference] = _Look((Finding(known.reference, ok=False, text=str(error)),))
        return self._looks[known.reference]

    def _ask(self, known: File, is_adapter: bool) -> _Look:
        text, reference = known.reference, parse(known.reference)
        if reference is None:
            header = None if is_adapter else gguf.check(text, require_weights=False)
            return _Look((Finding(text, ok=True, text="a local file, which gets no mark"),), header=header)
        reference = replace(reference, revision=reference.revision or known.revision)
        remote = hub.locate(reference, live=True)
        hashes = tuple(file.hash for file in remote.files if len(file.hash) == _SHA256_CHARS)
        parts = f" in {len(remote.files)} parts" if len(remote.files) > 1 else ""
        found = replace(known, size=remote.n_bytes, sha256=hashes, revision=remote.commit, verified=self._today)
        findings = [Finding(text, ok=True, text=f"{size(remote.n_bytes)}{parts}: {remote.files[0].name}")]
        findings += [Finding(text, ok=False, text=words) for words in _differences(known, found)]
        header = None if is_adapter else hub.header(remote)
        if header is not None:
            findings += [Finding(text, ok=False, text=words) for words in _surprises(known, reference, header)]
        return _Look(tuple(findings), found, header)


def _differences(known: File, found: File) -> Iterable[str]:
    """What the hub says otherwise than is known."""
    if known.size not in (None, found.size):
        yield f"expected {known.size:,} bytes, got {found.size:,}"
    if known.sha256 and known.sha256 != found.sha256:
        yield f"expected SHA-256 {_listed(known.sha256)}, got {_listed(found.sha256)}"


def _surprises(known: File, reference: Reference, header: gguf.Header) -> Iterable[str]:
    """What a header says otherwise than the name promises."""
    params = header.n_params / 1e9
    if known.params and abs(params / known.params - 1) > MAX_PARAMS_ERROR:
        yield f"expected about {count(int(known.params * 1e9))} parameters, got {count(header.n_params)}"
    wanted = (reference.quant or "").upper()
    if wanted and header.quantization and header.quantization.upper() != wanted:
        yield f"expected a file of type {wanted}, got {header.quantization}"


def _together(preset: Preset, headers: Mapping[str, gguf.Header]) -> tuple[int | None, list[Finding]]:
    """The size of the common vocabulary, and what was found of vocabularies, end tokens and template."""
    relation = relate(headers)
    if relation.shared is None:
        reason = relation.error.message if relation.error else "no vocabulary"
        return None, [Finding(preset.name, ok=False, text=reason)]
    shared = relation.shared.n_vocab
    findings = [Finding(preset.name, ok=True, text=f"one vocabulary of {shared:,} tokens")]
    ends = frozenset[str]().union(*relation.ends.values())
    missing = [text for text in preset.ends if text not in ends]
    if missing:
        known = " ".join(sorted(ends)) or "none"
        findings.append(Finding(preset.name, ok=False, text=f"expected the end token {missing[0]}, got {known}"))
    return shared, [*findings, _template(preset, headers)]


def _template(preset: Preset, headers: Mapping[str, gguf.Header]) -> Finding:
    """Whether a conversation can be written in the family's template, or the tuned model's."""
    deltas = preset.family.deltas
    speaker = headers[deltas[0].tuned if deltas else preset.family.base]
    named = preset.family.template
    source = BUILTIN.get(named or "", named) or speaker.chat_template
    if source is None:
        hint = "none in the tuned model's file; the preset must name one"
        return Finding(preset.name, ok=False, text=f"expected a chat template, got {hint}")
    words = vocabulary(speaker, "tuned")
    try:
        Template(source, bos=words.text(words.bos), eos=words.text(words.eos)).render(_CONVERSATION)
    except EFTError as error:
        return Finding(preset.name, ok=False, text=error.message)
    return Finding(preset.name, ok=True, text=f"chat template: {named if named in BUILTIN else 'its own'}")


def _listed(hashes: Iterable[str]) -> str:
    return ", ".join(f"{one[:12]}…" for one in hashes) or "none"


# ---- marks


def marks(verdicts: Iterable[Verdict], before: Mapping[str, Any] | None = None) -> str:
    """The text of a file of marks: what ``before``, such a file, says of others, and what is right now."""
    seen = list(verdicts)
    files: dict[str, dict[str, Any]] = {one["reference"]: one for one in (before or {}).get("file", [])}
    presets: dict[str, dict[str, Any]] = {one["name"]: one for one in (before or {}).get("preset", [])}
    for verdict in seen:
        for file in verdict.preset.files:
            files.pop(file.reference, None)
        presets.pop(verdict.preset.name, None)
    for verdict in seen:
        files.update((file.reference, _file_mark(file)) for file in verdict.files)
        if verdict.ok and all(parse(name) for name in references(verdict.preset.family)):
            presets[verdict.preset.name] = _preset_mark(verdict)
    tables = [("file", files[name]) for name in sorted(files)] + [("preset", presets[name]) for name in sorted(presets)]
    return _HEAD + "".join(f"\n[[{kind}]]\n" + "".join(f"{line}\n" for line in toml(table)) for kind, table in tables)


def _file_mark(file: File) -> dict[str, Any]:
    names = ("reference", "size", "sha256", "revision", "verified")
    return {name: getattr(file, name) for name in names}


def _preset_mark(verdict: Verdict) -> dict[str, Any]:
    day = max(file.verified or "" for file in verdict.files)
    names = list(references(verdict.preset.family))
    return {"name": verdict.preset.name, "files": names, "vocabulary": verdict.vocabulary, "verified": day}


def write_marks(path: Path, verdicts: Iterable[Verdict]) -> None:
    """Write marks into a file, whole or not at all; those in it of other presets stay.

    Raises:
        InputError: it is there and no file of marks, or it cannot be written.
    """
    before = read_marks(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(marks(verdicts, before), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path.name}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # the folder may be what is wrong
            partial.unlink()
