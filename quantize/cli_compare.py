"""``eftlite quantize compare``: what quantization did to a model, by llama-perplexity's statistics, or to a family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eftlite.cli.output import Output
from eftlite.cli.verb import Verb
from eftlite.errors import EFTError, InputError
from eftlite_quantize.cli_bar import progress_bar
from eftlite_quantize.cli_options import (
    Chunking,
    Reporting,
    Running,
    chunk_options,
    report_options,
    running_options,
)

if TYPE_CHECKING:
    from eftlite_quantize.comparison import Comparison
    from eftlite_quantize.conditions import Condition

_FILE = click.Path(path_type=Path)
_SPEEDS = ("pp_ts", "tg_ts")


@click.command(
    "compare",
    cls=Verb,
    examples=(
        "eftlite quantize compare model-f16.gguf model-Q4_K_M.gguf model-Q8_0.gguf --text wiki.txt",
        "eftlite quantize compare model-f16.gguf model-Q*.gguf --text chats.jsonl --chat --plot kld.svg -o kld.md",
        "eftlite quantize compare model-Q4_K_M.gguf --kl-base base.kld --fail-if 'kld_mean>0.05'",
        "eftlite quantize compare --family family.toml --text chats.jsonl --chat --types Q8_0,Q4_K_M",
    ),
)
@click.argument("models", nargs=-1, metavar="[REFERENCE [VARIANT]...]")
@click.option("--text", type=_FILE, metavar="FILE", help="What the models read: a UTF-8 text.")
@chunk_options
@click.option(
    "--kl-base", type=_FILE, metavar="FILE", help="Read this file of log-probabilities; all models are variants then."
)
@click.option("--save-kl-base", type=_FILE, metavar="FILE", help="Write the reference's, as llama-perplexity does.")
@click.option("--bench/--no-bench", default=True, show_default=True, help="Measure speed too.")
@click.option(
    "--fail-if", "conditions", multiple=True, metavar="COND", help="Exit with 1 if a variant fits; repeatable."
)
@click.option("--family", metavar="FILE", help="Compare a family's composites: its members, as FILE names them.")
@click.option("--types", metavar="TYPE,...", help="With --family: what its members become.")
@click.option(
    "--recordings", type=_FILE, default="recorded", show_default=True, metavar="FOLDER",
    help="With --family: where quantized members and what all make of the text are kept.",
)  # fmt: skip  # as the other options
@report_options("divergence against size, or by role")
@running_options
@click.pass_context
def compare_command(
    ctx: click.Context,
    /,
    models: tuple[str, ...],
    text: Path | None,
    chunking: Chunking,
    kl_base: Path | None,
    save_kl_base: Path | None,
    bench: bool,
    conditions: tuple[str, ...],
    family: str | None,
    types: str | None,
    recordings: Path,
    reporting: Reporting,
    running: Running,
) -> None:
    """Compare quantized VARIANTs of a model with REFERENCE, on a text.

    Chunks, statistics and their names are llama-perplexity's: perplexity, its ratio, the Kullback-Leibler divergence
    (KLD) of the variant from the reference with its percentiles, how often both have the same top token, and how the
    probability of the right token changes (Δp). Predictions of the second half of each chunk count.

    All models read the text side by side, so no file of logits is needed. Without a VARIANT the reference is measured
    alone. --fail-if takes a name as in the JSON output, < <= > or >=, and a number: 'kld_mean>0.05'.

    --family compares what a whole family samples from: every member is recorded on the text, quantized to each of
    --types and recorded again, and the composite with quantized members is compared with that of the originals, one
    member at a time, the small ones together, and all. `eftlite quantize family` does it again on the recordings.
    """
    if family is not None:
        beside = {"REFERENCE": models, "--kl-base": kl_base, "--save-kl-base": save_kl_base, "--fail-if": conditions}
        _expect_none("--family", beside)
        reporting.check()
        _compare_family(ctx, family, types, recordings, _given(text), chunking, reporting, running)
        return
    from eftlite_quantize.compare import Plan, compare, compare_with_stored
    from eftlite_quantize.conditions import condition

    _expect_none("REFERENCE", {"--types": types})
    limits = [condition(one) for one in conditions]
    if untimed := [one.name for one in limits if one.name in _SPEEDS and not bench]:
        raise InputError(f"--fail-if: {untimed[0]} is not measured with --no-bench")
    reporting.check(save_kl_base)
    plan = Plan(**vars(chunking), bench=bench, settings=running.settings)
    if not models:
        raise InputError("REFERENCE: expected a model's file, got none", "Or name a family's with --family")
    reference, *variants = models
    if kl_base is None:
        path = _given(text)
        with progress_bar(ctx.obj) as report:
            found = compare(reference, variants, path, plan, save_kl_base, report)
    else:
        options = {"--text": text, "--chat": chunking.chat, "--save-kl-base": save_kl_base}
        _expect_none("--kl-base, which holds the text and the base", options)
        with progress_bar(ctx.obj) as report:
            found = compare_with_stored(kl_base, models, plan, report)
    _show(ctx.obj, found, limits, reporting)


def _given(text: Path | None) -> Path:
    if text is None:
        raise InputError("--text: expected a text for the models to read, got none", "Or a stored one with --kl-base")
    return text


def _expect_none(beside: str, options: Mapping[str, object]) -> None:
    """InputError for options that do not go together, before any model is loaded."""
    for option, value in options.items():
        if value:
            raise InputError(f"{option}: expected none beside {beside}")


def _compare_family(
    ctx: click.Context, family: str, types: str | None, recordings: Path, text: Path, chunking: Chunking,
    reporting: Reporting, running: Running,
) -> None:  # fmt: skip  # the arguments fit on two lines
    """Record a family's members; `family` goes on from there."""
    from eftlite.family import load_family
    from eftlite.settings import from_options
    from eftlite_quantize.cli_family import family_command
    from eftlite_quantize.names import file_types
    from eftlite_quantize.record import Run, Text, record

    if types is not None:
        file_types(types)  # a wrong name is said now, not after the recording
    with progress_bar(ctx.obj) as report:
        what = from_options(Text, {"path": text, **vars(chunking)})
        record(load_family(family), what, Run(recordings, running.settings, report))
    ctx.invoke(family_command, folder=recordings, types=types, **vars(reporting), **vars(running))


def _show(output: Output, found: Comparison, limits: Sequence[Condition], reporting: Reporting) -> None:
    """Write and draw; EFTError, and so exit code 1, when a condition holds."""
    from eftlite_quantize.reports import table

    reporting.write(output, table(found))
    if reporting.plot is not None:
        from eftlite_quantize.plots import plot

        plot(found, reporting.plot)
        output.note(f"{reporting.plot} written")
    failing = [f"{limit} holds for {name} ({value:.6g})" for limit in limits for name, value in limit.failing(found)]
    if failing:
        raise EFTError(f"--fail-if: {'; '.join(failing)}")
