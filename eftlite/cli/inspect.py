"""``eftlite inspect``: what GGUF files are, and what they are to each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eftlite.cli.options import Members, naming_options
from eftlite.cli.output import Output
from eftlite.cli.verb import Verb
from eftlite.errors import InputError

if TYPE_CHECKING:
    from eftlite.gguf import Header
    from eftlite.inspection import Fit, Relation

DEFAULT_N_CTX = 4096


@click.command(
    "inspect",
    cls=Verb,
    examples=(
        "eftlite inspect base.gguf",
        "eftlite inspect base.gguf tuned.gguf reference.gguf",
        "eftlite inspect reference.gguf lora.gguf",
        "eftlite inspect --family family.toml --json",
    ),
)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@naming_options
@click.option("--metadata", is_flag=True, help="Print the metadata too.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.pass_obj
def inspect_command(output: Output, files: tuple[str, ...], members: Members, metadata: bool, as_json: bool) -> int:
    """Tell what each GGUF FILE is, a model or a LoRA adapter, and, of several, whether they can be used together.

    Only headers are read: no weights are loaded, and a damaged file does no harm. Without files, the members of a
    family are looked at. The exit code is 2 when files that should share a vocabulary do not, or when an adapter fits
    none of the models.
    """
    from eftlite.inspection import relate

    headers, adapters = _of_files(files, members) if files else _of_family(members)
    relation = relate(headers) if len(headers) > 1 else None
    n_ctx = members.n_ctx or DEFAULT_N_CTX
    if as_json:
        described = [{"as": name, **_described(header, n_ctx)} for name, header in headers.items()]
        found = [{"as": name, **one.as_json()} for name, one in adapters.items()]
        output.json({"files": described, "adapters": found, "family": relation.as_json() if relation else None})
    else:
        for name, header in headers.items():
            _print_file(output, name, header, n_ctx)
            if metadata:
                _print_metadata(output, header)
        for name, one in adapters.items():
            _print_adapter(output, name, one)
        if relation:
            _print_relation(output, relation)
    unusable = (relation and relation.error) or not all(one.works for one in adapters.values())
    return 2 if unusable else 0


def _of_files(files: tuple[str, ...], members: Members) -> tuple[dict[str, Header], dict[str, Fit]]:
    """Models and adapters by their files' names, each adapter tried on every model."""
    from eftlite.gguf import Header
    from eftlite.inspection import fit, look

    if any((members.family, members.preset, members.base, members.tuned, members.reference, members.adapter)):
        raise InputError("inspect: expected either files or a family, got both")
    if len(set(files)) != len(files):
        raise InputError("inspect: expected each file once")
    found = {file: look(file) for file in files}
    headers = {file: one for file, one in found.items() if isinstance(one, Header)}
    return headers, {file: fit(one, headers) for file, one in found.items() if not isinstance(one, Header)}


def _of_family(members: Members) -> tuple[dict[str, Header], dict[str, Fit]]:
    """Models and adapters by the names of their members, each adapter tried on the model it is for."""
    from eftlite import hub
    from eftlite.gguf_adapter import check_adapter
    from eftlite.inspection import fit
    from eftlite.loading import member_names, owner

    family, known = hub.preview(members.resolve())
    names = member_names(family)
    owners = {owner(source.path, names): source.path for source in names}
    if family.real:
        owners["real"] = family.real
    headers = {name: known.get(path) or hub.header_of(path) for name, path in owners.items()}
    adapters = {}
    for source, name in names.items():
        if source.adapter is not None:
            own = owner(source.path, names)
            adapters[name] = fit(check_adapter(source.adapter), {own: headers[own]})
    return headers, adapters


def _described(header: Header, n_ctx: int) -> dict[str, object]:
    """A file's description with the memory it will take."""
    from eftlite.gguf import describe
    from eftlite.inspection import cache_bytes

    n_ctx = min(n_ctx, header.n_ctx_train) or n_ctx
    memory = {"context": n_ctx, "weights_bytes": header.n_bytes, "cache_bytes": cache_bytes(header, n_ctx)}
    return {**describe(header), "memory": memory}


# ---- text


def _print_file(output: Output, name: str, header: Header, n_ctx: int) -> None:
    from eftlite.gguf_types import shown
    from eftlite.inspection import cache_bytes, count, size

    about = _described(header, n_ctx)
    file = shown(header.path.name)
    output.heading(file if name in (header.path.name, str(header.path)) else f"{name}: {file}")
    n_ctx = min(n_ctx, header.n_ctx_train) or n_ctx
    cache = cache_bytes(header, n_ctx)
    rows = {
        "name": header.name,
        "architecture": f"{shown(header.architecture)}, {header.n_layers} layers, embedding {header.n_embd}, "
        f"{about['heads']} heads",
        "parameters": count(header.n_params),
        "quantization": f"{header.quantization}, {about['bits_per_weight']} bits per weight",
        "file": size(header.file_bytes) + (f" in {header.split[1]} parts" if header.split else ""),
        "context": f"{header.n_ctx_train} tokens",
        "vocabulary": f"{header.n_vocab} tokens",
        "chat template": "yes" if header.chat_template else "no",
        "memory": f"{size(header.n_bytes)} of weights"
        + (f", {size(cache)} of cache for {n_ctx} tokens" if cache is not None else ""),
        "licence": shown(str(about["license"])) if about["license"] else "",
    }
    output.pairs([(f"  {key}", value) for key, value in rows.items() if value])


def _print_adapter(output: Output, name: str, fit: Fit) -> None:
    from eftlite.gguf_types import shown
    from eftlite.inspection import count, size

    adapter = fit.adapter
    file = shown(adapter.path.name)
    output.heading(file if name in (adapter.path.name, str(adapter.path)) else f"{name}: {file}")
    rows = {
        "name": adapter.name,
        "kind": f"LoRA adapter for {shown(adapter.architecture)}, rank {adapter.rank}"
        + (f", alpha {adapter.alpha:g}" if adapter.alpha else ""),
        "changes": ", ".join(adapter.targets),
        "matrices": str(len(adapter.pairs)),
        "ignored": f"{len(adapter.ignored)} norms, which llama.cpp does not apply" if adapter.ignored else "",
        "parameters": count(adapter.n_params),
        "file": size(adapter.file_bytes),
    }
    fits = ((model, f"no, {reason}" if reason else "yes") for model, reason in fit.misfits.items())
    told = [(f"  {key}", value) for key, value in rows.items() if value]
    output.pairs([*told, *(("  fits", f"{shown(Path(model).name)}: {answer}") for model, answer in fits)])


def _print_metadata(output: Output, header: Header) -> None:
    from eftlite.gguf_types import ArrayInfo, shown

    for key, value in sorted(header.metadata.items()):
        text = f"{value.length} × {value.type}" if isinstance(value, ArrayInfo) else shown(str(value), 100)
        output.answer(f"    {shown(key, 200)} = {text}", newline=True)


def _print_relation(output: Output, relation: Relation) -> None:
    """Whether the files go together."""
    output.heading("Together")
    rows: list[tuple[str, str]] = []
    if relation.error:
        rows.append(("  vocabulary", f"not shared: {relation.error.message}"))
    elif relation.shared:
        shared = relation.shared
        rows.append(("  vocabulary", f"shared, {shared.n_vocab} tokens, {len(shared.control)} of them control tokens"))
        rows += [("  note", note) for note in shared.notes]
    rows += [("  end tokens", _by_name(relation.ends)), ("  templates", _templates(relation.templates))]
    output.pairs(rows)


def _by_name(ends: Mapping[str, tuple[str, ...]]) -> str:
    """End tokens; once when they are everybody's."""
    if len(set(ends.values())) == 1:
        return " ".join(next(iter(ends.values()))) or "none"
    return "; ".join(f"{name}: {' '.join(texts) or 'none'}" for name, texts in ends.items())


def _templates(templates: Mapping[str, str]) -> str:
    """Which templates there are; one word when all files have the same."""
    first, *others = templates.values()
    if first == "own" and set(others) == {f"as {next(iter(templates))}"}:
        return "the same in all"
    return "; ".join(f"{name}: {what}" for name, what in templates.items())
