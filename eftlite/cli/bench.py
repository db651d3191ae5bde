"""``eftlite bench``: llama-bench's options and formats; the four ways to decode side by side."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from eftlite.cli.options import Members, naming_options, rpc_option
from eftlite.cli.output import LoadingLine, Output
from eftlite.cli.verb import AnswerOption, ModelOption, Verb
from eftlite.errors import InputError
from eftlite.settings import KV_TYPES, RULES, ModelSettings, from_options

if TYPE_CHECKING:
    from eftlite.contest import Plan
    from eftlite.settings import Family

FORMATS = ("md", "json", "jsonl", "csv")
SHAPE_FOLDER = "shapes"
# Title, width, and on which side the numbers stand; as in llama-bench.
COLUMNS = (
    ("model", 36, "<"),
    ("size", 10, ">"),
    ("params", 8, ">"),
    ("backend", 8, "<"),
    ("threads", 7, ">"),
    ("mode", 24, "<"),
    ("test", 15, ">"),
    ("t/s", 16, ">"),
    ("x base", 6, ">"),
    ("acceptance", 16, ">"),
)


class ListOf(click.ParamType[tuple[Any, ...]]):
    """Values between commas, each of one type or one of the words given."""

    def __init__(self, kind: type[int | float | str], *words: str) -> None:
        self.name = "list"
        self._kind, self._words = kind, words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """The values; click's error names what was expected."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        try:
            return tuple(part if part in self._words else self._kind(part) for part in parts)
        except ValueError:
            kind = {int: "whole numbers", float: "numbers"}[self._kind]
            words = "".join(f" or {word!r}" for word in self._words)
            self.fail(f"expected {kind}{words} between commas, got {value!r}", param, ctx)


_model_option = functools.partial(click.option, cls=ModelOption)
_answer_option = functools.partial(click.option, cls=AnswerOption)
_integers = functools.partial(click.option, type=ListOf(int), metavar="N[,N…]", show_default=True)


@click.command(
    "bench",
    cls=Verb,
    examples=(
        "eftlite bench",
        "eftlite bench -p 0 -n 128 --drafter auto,lookup --rule gumbel,block -o json",
        "eftlite bench --shape 3b-q8_0 135m-q8_0 --acceptance 0.8,adversarial --modes base,eft,eft-spec -p 0",
    ),
)
@naming_options
@_model_option("--n-gpu-layers", "-ngl", type=int, metavar="N", help="Layers on the GPU; -1: all.  [default: 0]")
@_model_option("--threads", "-t", type=int, metavar="N", help="Threads.  [default: the physical cores]")
@_model_option("--type-k", "-ctk", type=click.Choice(KV_TYPES), metavar="TYPE", help="Type of the cache's keys.")
@_model_option("--type-v", "-ctv", type=click.Choice(KV_TYPES), metavar="TYPE", help="Type of the cache's values.")
@rpc_option
@_model_option("--shape", nargs=2, metavar="BASE SMALL", help="Random models of these shapes: 3b-q8_0 135m-q8_0.")
@_model_option("--vocab", type=int, metavar="N", help="Vocabulary of --shape.  [default: the base's]")
@_model_option("--shape-folder", metavar="DIR", help="Keeps the files of --shape.  [default: in the user's cache]")
@_integers("--n-prompt", "-p", default="512", help="Tokens to read; 0: none.")
@_integers("--n-gen", "-n", default="128", help="Tokens to make; 0: none.")
@_integers("--depth", "-d", "n_depth", default="0", help="Tokens that are in the cache before.")
@click.option("--repetitions", "-r", type=int, default=5, show_default=True, metavar="N", help="Of each test.")
@click.option("--modes", type=ListOf(str), metavar="MODE[,…]", help="Some of base,tuned,eft,eft-spec.  [default: all]")
@_answer_option(
    "--drafter",
    "drafters",
    type=ListOf(str),
    metavar="NAME[,…]",
    default="auto",
    show_default=True,
    help="auto, lookup, lookup+auto, a member, or a GGUF file of the same vocabulary.",
)
@_answer_option(
    "--rule",
    "rules",
    type=ListOf(str),
    metavar="RULE[,…]",
    default="gumbel",
    show_default=True,
    help=f"How drafts are accepted: {', '.join(RULES)}.",
)
@_answer_option("--n-draft", "n_drafts", type=ListOf(int), metavar="N[,…]", help="Draft length.  [default: chosen]")
@_answer_option(
    "--acceptance",
    "acceptances",
    type=ListOf(float, "adversarial"),
    metavar="RATE[,…]",
    help="Accept by coins of this rate; 'adversarial': never, and each time the best is expected.",
)
@_answer_option("--prompt", "questions", multiple=True, metavar="TEXT", help="What is asked; repeatable.")
@_answer_option("--temperature", type=float, help="0 takes the likeliest token.  [default: 0.8]")
@_answer_option("--seed", type=int, default=42, show_default=True, help="Of the texts, and of coins.")
@click.option("--output", "-o", "form", type=click.Choice(FORMATS), default="md", show_default=True, help="Format.")
@click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
@click.pass_obj
def bench_command(output: Output, /, members: Members, form: str, as_json: bool, **options: Any) -> None:
    """Measure how fast models read and make tokens: base alone, tuned alone, EFT, and EFT with drafts.

    Tests, options and formats are llama-bench's: pp512 reads 512 tokens, tg128 makes 128, 'tg128 @ d1024' makes them
    after 1024 others. Values between commas make a grid. All is measured in one run, repetitions of the modes
    alternating. Making the law and drawing from it counts; the prompt does not count in tg, and an answer's end does
    not end it.
    """
    loading = {name: getattr(members, name) for name in ("n_gpu_layers", "type_k", "type_v")}
    settings = from_options(ModelSettings, {"n_threads": members.threads, **loading})
    shape, vocab, folder = (options.pop(name) for name in ("shape", "vocab", "shape_folder"))
    _check_shape(members, shape, vocab, folder)
    family = None if shape else members.resolve()
    plan = _plan(family, n_ctx=members.n_ctx, **options)
    line = LoadingLine()
    try:
        family = family or members.changed(random_family(shape, vocab, folder, line))
        for text in _lines("json" if as_json else form, _measured(family, plan, settings, bool(shape), line)):
            line.clear()
            output.answer(text, newline=True)
    finally:
        line.clear()


def _plan(
    family: Family | None, *, questions: tuple[str, ...], temperature: float | None, seed: int, **same: Any
) -> Plan:
    """The plan that the options make; a list left out leaves its default."""
    from eftlite.contest import Plan
    from eftlite.family import bundled_family
    from eftlite.settings import Sampling

    if not questions and family is not None and family == bundled_family():
        questions = demo_questions()
    options = {
        "questions": questions or None,
        "sampling": from_options(Sampling, {"temperature": temperature, "seed": seed}),
    }
    plan: Plan = from_options(Plan, {**same, **options})
    return plan


def demo_questions(n: int = 5) -> tuple[str, ...]:
    """Questions that the bundled family was made for, of several kinds."""
    from eftlite.demo.scoring import load_questions

    found = load_questions()
    return tuple(question.text for question in found[:: len(found) // n][:n])


def _check_shape(members: Members, shape: tuple[str, str] | None, vocab: int | None, folder: str | None) -> None:
    """InputError for options of random models without any, and for files beside them."""
    if shape is None and (vocab is not None or folder is not None):
        raise InputError(f"--{'shape-folder' if vocab is None else 'vocab'}: expected --shape beside it, got none")
    named = [name for name in ("family", "base", "tuned", "reference") if getattr(members, name) is not None]
    if shape is not None and named:
        raise InputError(f"--shape: expected no --{named[0]} beside it", "Random models need no files")


def random_family(shape: tuple[str, str], vocab: int | None, folder: str | None, line: LoadingLine) -> Family:
    """The family of ``--shape``; its files are written unless they are there."""
    from eftlite.places import cache_folder
    from eftlite.shapes import shape_family

    place = folder or cache_folder() / SHAPE_FOLDER
    return shape_family(place, *shape, vocab, lambda name, done: line(f"writing {name} {done:.0%}", done))


def _measured(
    family: Family, plan: Plan, settings: ModelSettings, random_weights: bool, line: LoadingLine
) -> Iterator[dict[str, Any]]:
    from eftlite.bench import measure

    return measure(family, plan, settings, random_weights=random_weights, report=lambda text: line(text, 0.0))


# ---- formats


def _lines(form: str, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The output line by line, each as soon as it can be known."""
    if form == "json":
        yield json.dumps(list(rows), ensure_ascii=False, indent=2, allow_nan=False)
    elif form == "jsonl":
        yield from (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    else:
        yield from _csv(rows) if form == "csv" else _markdown(rows)


def _csv(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A header and a line for each row; lists and objects are JSON in their field, what is unknown is empty."""
    header: list[str] = []
    for row in rows:
        if not header:
            header = list(row)
            yield _csv_line(header)
        yield _csv_line([json.dumps(x) if isinstance(x, list | dict) else x for x in row.values()])


def _csv_line(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _markdown(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """llama-bench's table, with the mode, its speed in comparison with the base's, and how much was accepted."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if not found:
            yield _table_line(title for title, _, _ in COLUMNS)
            yield _table_line("-" * (width - 1) + (":" if side == ">" else "-") for _, width, side in COLUMNS)
        found.append(row)
        yield _table_line(_cells(row))
    yield f"\n{found[0]['build_commit']}, {found[0]['gpu_info'] or found[0]['cpu_info']}"
    for what in dict.fromkeys(_synthetic(row) for row in found if row["synthetic"]):
        yield f"synthetic: {what}"


def _cells(row: dict[str, Any]) -> Iterator[str]:
    synthetic, params = row["synthetic"] or {}, row["model_n_params"]
    kinds = Counter(row["model_type"].split(" + "))
    model = " + ".join(f"{n} x {kind}" if n > 1 else kind for kind, n in kinds.items())
    yield f"{model}, random" if "weights" in synthetic else model
    yield _size(row["model_size"])
    yield f"{params / 1e9:.2f} B" if params >= 1e8 else f"{params / 1e6:.2f} M"
    yield row["backends"]
    yield str(row["n_threads"])
    yield f"{row['mode']} ({row['speculation']})" if row["speculation"] else row["mode"]
    yield row["test"]
    yield f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}"
    yield "" if row["ratio_to_base"] is None else f"{row['ratio_to_base']:.2f}"
    rate = "none" if row["acceptance"] is None else f"{row['acceptance']:.2f}"
    asked = synthetic.get("acceptance")
    coins = "" if asked is None else f" {asked}" if isinstance(asked, str) else f" (coins {asked:g})"
    yield rate + coins if row["speculation"] else ""


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.2f} MiB"


def _synthetic(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in row["synthetic"].items())


def _table_line(cells: Iterable[str]) -> str:
    padded = (f"{cell:{side}{width}}" for cell, (_, width, side) in zip(cells, COLUMNS, strict=True))
    return f"| {' | '.join(padded)} |"
