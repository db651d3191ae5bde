"""Question two, from headers alone: is this family sound? Files, vocabularies, end tokens, templates, memory.

Nothing is loaded, so a damaged or hostile file does no harm. Whether answers really end is measured (ends.py).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from eftlite.doctor.case import Case
from eftlite.doctor.findings import OK, PROBLEM, WARNING, Finding, of_error, step
from eftlite.errors import EFTError, VocabularyError
from eftlite.gguf import Header, check
from eftlite.gguf_adapter import check_adapter, check_fit
from eftlite.gguf_types import shown
from eftlite.inspection import count, size, vocabulary
from eftlite.loading import delta_sources, expected, member_names
from eftlite.placement import Placement
from eftlite.placement import check as check_placement
from eftlite.template import BUILTIN, Template
from eftlite.vocab import Vocabulary, share

# What templates write for role markers: Llama's, ChatML's, Gemma's.
_MARKERS = re.compile(r"<\|[^|<>\s]{1,40}\|>|<(?:start|end)_of_turn>")
_SAID, _ASKED = "ANSWER", "QUESTION"


def examine(case: Case) -> tuple[Finding, ...]:
    """Findings about a family of local files."""
    headers: dict[str, Header] = {}
    vocabularies: dict[str, Vocabulary] = {}
    found = step("files", lambda: files(case, headers))
    if any(finding.level == PROBLEM for finding in found):
        return found
    found += step("pair", lambda: pairs(case, headers)) + step("vocabulary", lambda: read(headers, vocabularies))
    if len(vocabularies) < len(headers):
        return found
    found += step("vocabulary", lambda: shared(case, vocabularies))
    found += step("template", lambda: template(case, headers, vocabularies))
    return found + step("memory", lambda: memory(case, headers))


def files(case: Case, headers: dict[str, Header]) -> Iterator[Finding]:
    """Each member's file, put into ``headers``, and the adapters on them; those that cannot be used are problems."""
    names = member_names(case.family)
    for source, name in names.items():
        try:
            headers[name] = check(source.path)
            if source.adapter is not None:
                check_fit(check_adapter(source.adapter), headers[name])
        except EFTError as error:  # noqa: PERF203  a handful of files, each with its own fault
            yield of_error(name, error)
    if len(headers) == len(names):
        words = "; ".join(f"{name} {_about(header)}" for name, header in headers.items())
        yield Finding("files", OK, words, facts={"bytes": {name: one.n_bytes for name, one in headers.items()}})


def _about(header: Header) -> str:
    return f"{count(header.n_params)} {header.quantization} ({size(header.file_bytes)})"


def pairs(case: Case, headers: Mapping[str, Header]) -> Iterator[Finding]:
    """Tuned and reference of each delta have to be one model, before and after its fine-tuning."""
    names = member_names(case.family)
    for delta in case.family.deltas:
        tuned, reference = (headers[names[source]] for source in delta_sources(delta))
        if (tuned.n_params, tuned.n_layers, tuned.n_embd) != (reference.n_params, reference.n_layers, reference.n_embd):
            sizes = f"tuned has {count(tuned.n_params)} parameters, reference {count(reference.n_params)}"
            text = f"{delta.name}: {sizes}, so they are not one model before and after fine-tuning"
            yield Finding("pair", WARNING, text)
        elif tuned.quantization != reference.quantization:
            types = f"tuned is {tuned.quantization}, reference {reference.quantization}"
            fix = f"eftlite quantize produce REFERENCE-F16.gguf --types {tuned.quantization}"
            yield Finding("pair", WARNING, f"{delta.name}: {types}, so their rounding does not cancel", fix)


def memory(case: Case, headers: Mapping[str, Header]) -> Iterator[Finding]:
    """What the members will take of what there is; loading refuses what does not fit."""
    by_path = {source.path: headers[name] for source, name in member_names(case.family).items()}
    placement = expected(case.family, by_path, case.settings, case.n_ctx, 1)
    check_placement(placement)
    yield fit(placement)


def fit(placement: Placement) -> Finding:
    """A placement in words; what had to be made smaller is a warning."""
    taken = {gpu.name: 0 for gpu in placement.gpus}
    for need in placement.needs.values():
        for name in taken.keys() & need.devices.keys():
            taken[name] += need.devices[name].total
    words = [f"{size(placement.memory)} of {size(int(placement.free.memory))} of main memory"]
    words += [f"{size(taken[gpu.name])} of {size(gpu.free_bytes)} on {gpu.name}" for gpu in placement.gpus]
    facts = {"memory_bytes": placement.memory, "n_ctx": placement.n_ctx, "devices": taken}
    text = f"Takes {', '.join(words)}, with {placement.n_ctx} tokens of context"
    if placement.notes:
        return Finding("memory", WARNING, f"{text}; {'; '.join(placement.notes)}", facts=facts)
    return Finding("memory", OK, text, facts=facts)


# ---- vocabularies


def read(headers: Mapping[str, Header], vocabularies: dict[str, Vocabulary]) -> Iterator[Finding]:
    """Put each member's vocabulary into ``vocabularies``; those that cannot be read are problems."""
    for name, header in headers.items():
        try:
            vocabularies[name] = vocabulary(header, name)
        except EFTError as error:  # noqa: PERF203  as above
            yield of_error("vocabulary", error)


def shared(case: Case, vocabularies: Mapping[str, Vocabulary]) -> Iterator[Finding]:
    """Whether one id means one text to all, and which ids end an answer."""
    try:
        common = share(list(vocabularies.values()))
    except VocabularyError as error:
        differing = {"token_id": error.token_id, "texts": error.texts}
        yield Finding("vocabulary", PROBLEM, error.message, case.command("inspect"), differing)
        return
    n_control = len(common.control)
    n_notes = len(common.notes)
    notes = f", {n_notes} harmless difference{'s' * (n_notes > 1)}" if n_notes else ""
    text = f"{common.n_vocab} tokens mean the same to all, {n_control} of them control tokens{notes}"
    facts = {"n_vocab": common.n_vocab, "n_control": n_control, "notes": list(common.notes)}
    yield Finding("vocabulary", OK, text, facts=facts)
    name = speaker(vocabularies)
    texts = [shown(vocabularies[name].text(token)) for token in sorted(common.eog)]
    if not vocabularies[name].ends():
        yield Finding("end tokens", PROBLEM, f"{name} names no end token, so its answers never end")
    else:
        yield Finding("end tokens", OK, f"An answer ends at {' or '.join(texts)}", facts={"end_tokens": texts})


def speaker(names: Iterable[str]) -> str:
    """The member whose template and vocabulary speak for the family: the first tuned one, or a base alone."""
    first, *others = names
    return next((name for name in others if name.startswith("tuned")), first)


# ---- templates


def template(case: Case, headers: Mapping[str, Header], vocabularies: Mapping[str, Vocabulary]) -> Iterator[Finding]:
    """Where the chat template comes from, whether it renders, whether the vocabulary has what it writes."""
    name = speaker(headers)
    ours, own, given = vocabularies[name], headers[name].chat_template, case.family.template
    source = BUILTIN.get(given or "", given) or own or BUILTIN["chatml"]
    text = render(source, ours, case.bundled)
    origin = "The family's template" if given else f"The template of {name}" if own else "ChatML, for want of another,"
    known = set(ours.texts)
    strange = [marker for marker in dict.fromkeys(_MARKERS.findall(text)) if marker.encode() not in known]
    if strange:
        written = ", ".join(shown(marker) for marker in strange[:3])
        what = f"{origin} writes {written}, which the vocabulary does not have"
        yield Finding("template", WARNING, what, _fitting(ours), {"strange": strange})
        return
    if not own and not given:
        yield Finding("template", WARNING, f"{name} has none; ChatML is used", _fitting(ours))
    else:
        yield Finding("template", OK, f"{origin} renders, in tokens that the vocabulary has")
    yield from _turn_end(case, headers[name].path, vocabularies, text)


def render(source: str, ours: Vocabulary, trusted: bool) -> str:
    """Two turns and an answer between them; TemplateError when the template cannot."""
    bos, eos = (ours.text(token) if token >= 0 else "" for token in (ours.bos, ours.eos))
    turns = [("user", "Hello"), ("assistant", _SAID), ("user", _ASKED)]
    messages = [{"role": role, "content": content} for role, content in turns]
    return Template(source, bos=bos, eos=eos, trusted=trusted).render(messages)


def _turn_end(case: Case, path: Path, vocabularies: Mapping[str, Vocabulary], text: str) -> Iterator[Finding]:
    """What the template writes after an answer must be an end token."""
    name = speaker(vocabularies)
    ours, between = vocabularies[name], text.partition(_SAID)[2].partition(_ASKED)[0]
    after = between.lstrip()
    tokens = [int(token) for token in ours.control.nonzero()[0] if ours.texts[token]]
    marker = _MARKERS.match(after)
    if marker and marker[0].encode() in ours.texts:  # some files do not flag theirs as control tokens
        tokens.append(ours.texts.index(marker[0].encode()))
    matching = [token for token in tokens if after.startswith(ours.text(token))]
    follows = max(matching, key=lambda token: len(ours.texts[token]), default=None)
    ends = frozenset[int]().union(*(one.ends() for one in vocabularies.values()))
    if follows is None:
        if not case.family.stop:
            what = "The template ends an answer with plain text; a stop string may be needed"
            yield Finding(
                "end of turn", WARNING, what, f"stop = [{json.dumps(between.rstrip())}]  # in the family file"
            )
    elif follows not in ends:
        what = f"The template ends an answer with {ours.text(follows)}, which {name} does not name as an end token"
        fix = f"gguf-set-metadata --force {shlex.quote(str(path))} tokenizer.ggml.eos_token_id {follows}"
        yield Finding("end of turn", PROBLEM, f"{what}: answers run on", fix, {"token_id": follows})


def _fitting(ours: Vocabulary) -> str:
    """The line that chooses a built-in template whose markers the vocabulary has; empty when none fits."""
    known = set(ours.texts)
    for name, source in BUILTIN.items():
        markers = _MARKERS.findall(source)
        if markers and all(marker.encode() in known for marker in markers):
            return f'template = "{name}"  # in the family file'
    return ""
