"""``eftlite eval``, and ``eftlite-eval`` by itself: base, tuned and EFT on the harness's tasks, side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import click

from eftlite.errors import EFTError, InputError

WIDTH = 200  # of a file or pipe, where no line need be broken
MODES = ("base", "tuned", "reference", "eft")
Results = Mapping[str, Any]


@click.command("eval", context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--tasks", required=True, metavar="NAME[,…]", help="Tasks of the harness, or of --include-path; * matches."
)
@click.option("--include-path", metavar="FOLDER", help="A folder with tasks of your own.")
@click.option("--modes", default="base,tuned,eft", metavar="MODE[,…]", help=f"Who is scored: {', '.join(MODES)}.")
@click.option(
    "--model-args",
    default="",
    metavar="NAME=VALUE[,…]",
    help="family, preset, or base, tuned, reference; n_ctx, alpha …",
)
@click.option("--num-fewshot", type=int, metavar="N", help="Examples in the context.")
@click.option("--limit", type=float, metavar="N", help="Score the first N questions of each task.")
@click.option("--apply-chat-template", is_flag=True, help="Ask as in a conversation.")
@click.option("--system-instruction", metavar="TEXT", help="The system message.")
@click.option("--json", "as_json", is_flag=True, help="Print what the harness found, by mode.")
def eval_command(
    tasks: str, modes: str, model_args: str, include_path: str | None, as_json: bool, **options: Any
) -> None:
    """Score base, tuned and EFT on tasks of lm-evaluation-harness, with one set of models in memory."""
    wanted = modes.split(",")
    unknown = [mode for mode in wanted if mode not in MODES]
    if unknown:
        raise InputError(f"--modes: expected some of {', '.join(MODES)}, got {unknown[0]!r}")
    found = dict(evaluate(wanted, model_args, tasks.split(","), include_path, options))
    if as_json:
        click.echo(json.dumps(found, indent=2, default=str))
    else:
        _print(found)


def main() -> None:
    """``eftlite-eval``: the command where eftlite has no door for those of plugins."""
    try:
        eval_command.main(prog_name="eftlite-eval")
    except EFTError as error:
        sys.exit(f"error: {error}")


def evaluate(
    modes: Sequence[str],
    model_args: str,
    tasks: Sequence[str],
    include_path: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[tuple[str, Results]]:
    """Each mode with what the harness found, one after the other.

    Args:
        model_args: as the harness writes them; knobs are those of the mode "eft".
        options: further arguments of ``lm_eval.simple_evaluate``.

    Raises:
        EFTError: models, values or tasks that cannot be used.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import simple_parse_args_string

    from lm_eval_eftlite import TASKS
    from lm_eval_eftlite.model import EFTLM

    manager = TaskManager(include_path=[str(TASKS), *([include_path] if include_path else [])])
    named = {task: manager.match_tasks([task]) for task in tasks}
    unknown = [task for task, names in named.items() if not names]
    if unknown:
        raise InputError(f"--tasks: there is none called {unknown[0]!r}", "lm-eval ls tasks lists the harness's")
    arguments = simple_parse_args_string(model_args)
    if "mode" in arguments:
        raise InputError("--model-args: expected no mode, got one", "Say --modes")
    knobs = {name: arguments.pop(name) for name in ("alpha", "beta", "conservative_p") if name in arguments}
    own = {name: arguments.pop(name) for name in ("speculative", "max_gen_toks") if name in arguments}
    first = EFTLM(**arguments)
    with first.eft as eft:
        for mode in modes:
            model = EFTLM(eft=eft, mode=mode, **own, **(knobs if mode == "eft" else {}))
            yield (
                mode,
                simple_evaluate(
                    model=model, tasks=list(chain(*named.values())), task_manager=manager, **(options or {})
                ),
            )


def figures(found: Mapping[str, Results]) -> Iterator[tuple[str, str, list[tuple[float | None, float | None]]]]:
    """Each task and metric with every mode's value and standard error, None where there is none."""
    tables = [one["results"] for one in found.values()]
    for task, values in tables[0].items():
        for name in values:
            metric, comma, chain = name.partition(",")
            if comma and not metric.endswith("_stderr"):
                error = f"{metric}_stderr,{chain}"
                rows = [(_number(table[task].get(name)), _number(table[task].get(error))) for table in tables]
                yield task, metric if chain == "none" else name, rows


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _print(found: Mapping[str, Results]) -> None:
    """A table with a column for each mode."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("task", "metric", *found):
        table.add_column(heading, justify="left" if heading in ("task", "metric") else "right")
    for task, metric, row in figures(found):
        table.add_row(task, metric, *(_cell(*one) for one in row))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def _cell(value: float | None, error: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" + (f" ± {error:.4f}" if error is not None else "")
