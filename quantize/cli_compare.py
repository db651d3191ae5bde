"""``eftlite quantize compare``: what quantization did to a model, by llama-perplexity's statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eftlite.cli.output import Output
from eftlite.cli.verb import ModelOption, Verb
from eftlite.errors import EFTError, InputError
from eftlite_quantize.cli_bar import progress_bar

if TYPE_CHECKING:
    from rich.console import Console

    from eftlite_quantize.comparison import Comparison
    from eftlite_quantize.conditions import Condition

FORMATS = ("table", "md", "csv", "json")


@click.command(
    "compare",
    cls=Verb,
    examples=(
        "eftlite quantize compare model-f16.gguf model-Q4_K_M.gguf model-Q8_0.gguf --text wiki.txt",
        "eftlite quantize compare model-f16.gguf model-Q*.gguf --text chats.jsonl --chat --plot kld.svg -o kld.md",
        "eftlite quantize compare model-Q4_K_M.gguf --kl-base base.kld --fail-if 'kld_mean>0.05'",
    ),
)
@click.argument("models", nargs=-1, required=True, metavar="REFERENCE [VARIANT]...")
@click.option("--text", metavar="FILE", help="What the models read: a UTF-8 text.")
@click.option("--chat", is_flag=True, help="FILE holds conversations; the reference's chat template writes them.")
@click.option("--ctx-size", "-c", "n_ctx", type=int, metavar="N", help="Tokens of a chunk.  [default: 512]")
@click.option("--chunks", "n_chunks", type=click.IntRange(min=1), metavar="N", help="Read N chunks.  [default: all]")
@click.option("--kl-base", metavar="FILE", help="Read this file of log-probabilities; all models are variants then.")
@click.option("--save-kl-base", metavar="FILE", help="Write the reference's, as llama-perplexity does.")
@click.option("--bench/--no-bench", default=True, show_default=True, help="Measure speed too.")
@click.option(
    "--fail-if", "conditions", multiple=True, metavar="COND", help="Exit with 1 if a variant fits; repeatable."
)
@click.option("--plot", metavar="FILE", help="Draw divergence against size: a .png or .svg.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="[default: by the name of -o, else table]")
@click.option("--output", "-o", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write, do not print.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--threads", "-t", type=int, default=0, metavar="N", cls=ModelOption, help="[default: the physical cores]"
)
@click.option("--n-gpu-layers", "-ngl", type=int, default=0, metavar="N", cls=ModelOption, help="On the GPU; -1: all.")
@click.pass_obj
def compare_command(
    output: Output,
    /,
    models: tuple[str, ...],
    text: str | None,
    kl_base: str | None,
    save_kl_base: str | None,
    conditions: tuple[str, ...],
    plot: str | None,
    form: str | None,
    target: Path | None,
    as_json: bool,
    threads: int,
    n_gpu_layers: int,
    **plan: Any,
) -> None:
    """Compare quantized VARIANTs of a model with REFERENCE, on a text.

    Chunks, statistics and their names are llama-perplexity's: perplexity, its ratio, the Kullback-Leibler divergence
    (KLD) of the variant from the reference with its percentiles, how often both have the same top token, and how the
    probability of the right token changes (Δp). Predictions of the second half of each chunk count.

    All models read the text side by side, so no file of logits is needed. Without a VARIANT the reference is measured
    alone. --fail-if takes a name as in the JSON output, < <= > or >=, and a number: 'kld_mean>0.05'.
    """
    from eftlite.settings import ModelSettings
    from eftlite_quantize.compare import Plan, compare, compare_with_stored
    from eftlite_quantize.conditions import condition
    from eftlite_quantize.plots import check_plot

    limits = [condition(one) for one in conditions]
    _check(text, kl_base, save_kl_base, plan, limits)
    if plot is not None:
        check_plot(plot)
    _check_folders(target, plot, save_kl_base)
    how = Plan(**plan, settings=ModelSettings(n_threads=threads, n_gpu_layers=n_gpu_layers))
    with progress_bar(output) as report:
        if kl_base is not None:
            found = compare_with_stored(kl_base, models, how, report)
        else:
            reference, *variants = models
            found = compare(reference, variants, text or "", how, save_kl_base, report)
    _write(output, found, "json" if as_json else form or _form(target), target)
    if plot is not None:
        _plot(output, found, plot)
    _judge(found, limits)


def _check(
    text: str | None, kl_base: str | None, save_kl_base: str | None, plan: dict[str, Any], limits: Sequence[Condition]
) -> None:
    """InputError for options that do not go together, before any model is loaded."""
    if kl_base is None and text is None:
        raise InputError("--text: expected a text for the models to read, got none", "Or a stored one with --kl-base")
    if kl_base is not None:
        beside = {"--text": text, "--chat": plan["chat"], "--save-kl-base": save_kl_base}
        for option, value in beside.items():
            if value:
                raise InputError(f"{option}: expected none beside --kl-base, which holds the text and the base")
    for limit in limits:
        if limit.name in ("pp_ts", "tg_ts") and not plan["bench"]:
            raise InputError(f"--fail-if: {limit.name} is not measured with --no-bench")


def _check_folders(*paths: str | Path | None) -> None:
    """InputError for files that could not be written after hours of work."""
    for path in (Path(path) for path in paths if path is not None):
        if not path.absolute().parent.is_dir():
            raise InputError(f"{path.name}: expected a folder for it at {path.parent}, got none")
        if path.is_dir():
            raise InputError(f"{path.name}: expected a file's name, got a folder's")


# ---- what comes out


def _form(target: Path | None) -> str:
    """The format that a file's name asks for."""
    found = target.suffix.lstrip(".").lower() if target else ""
    return found if found in FORMATS else "table"


def _write(output: Output, found: Comparison, form: str, target: Path | None) -> None:
    """Print, or write to a file."""
    from eftlite_quantize import reports

    if form == "table":
        text = _table(output.console(), found)
    else:
        text = {"md": reports.markdown, "csv": reports.as_csv, "json": reports.as_json}[form](found)
    if target is None:
        output.answer(text)
        return
    try:
        target.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise EFTError(f"{target.name}: cannot be written: {error.strerror}") from None
    output.note(f"{target} written")


def _table(console: Console, found: Comparison) -> str:
    """A table as wide as the terminal, and what to know about it."""
    from rich.table import Table

    from eftlite_quantize.reports import footnotes, narrowed, rows

    (first, *titles), *body = narrowed(rows(found), console.width)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for line in body:
        table.add_row(*line)
    with console.capture() as printed:
        console.print(table)
        console.print(*footnotes(found), sep="\n")
    return printed.get()


def _plot(output: Output, found: Comparison, path: str) -> None:
    from eftlite_quantize.plots import plot

    plot(found, path)
    output.note(f"{path} written")


def _judge(found: Comparison, limits: Sequence[Condition]) -> None:
    """EFTError, and so exit code 1, when a condition holds."""
    failing = [f"{limit} holds for {name} ({value:.6g})" for limit in limits for name, value in limit.failing(found)]
    if failing:
        raise EFTError(f"--fail-if: {'; '.join(failing)}")
