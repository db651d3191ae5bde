"""The manual's commands about quantizing, run as a reader types them. A minute: they make and record real files."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eftlite.cli import program
from eftlite.family import load_family
from tests.tiny_gguf import write_model

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MEMBERS = ("base", "tuned", "reference")


def commands(page: str) -> list[list[list[str]]]:
    """The words after ``eftlite`` of each command of a page, by block."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [[shlex.split(line)[2:] for line in block.splitlines() if line.startswith("$ eftlite ")] for block in blocks]


def run(words: Sequence[str]) -> Result:
    """A command, which must succeed without a warning."""
    result = CliRunner().invoke(program, words, input="/exit\n")
    assert result.exit_code == 0, f"{words}: {result.output} {result.exception}"
    return result


def family_file() -> str:
    """The family file that docs/models.md shows."""
    blocks: list[str] = re.findall(
        r"^```toml\n(.*?)^```", (DOCS / "models.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return next(block for block in blocks if '"base.gguf"' in block)


def test_three_commands_from_f16_files_to_a_chosen_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_family: dict[str, Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    for member in MEMBERS:
        shutil.copyfile(demo_family[member], f"{member}.gguf")
    Path("family.toml").write_text(family_file(), encoding="utf-8")
    command = [sys.executable, "-m", "lab.train.sample", "--chars", "14000"]
    Path("world.txt").write_bytes(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    *three, last = commands("quantize.md")[0]
    assert [words[:2] for words in three] == [["quantize", verb] for verb in ("record", "family", "plan")]
    recorded, compared, planned = map(run, three)
    assert recorded.stdout == "base: F16\ntuned: F16\nreference: F16\n"
    assert [line.split()[:2] for line in compared.stdout.splitlines()[1:3]] == [["base", "Q8_0"], ["base", "Q4_K_M"]]
    (chosen,) = (line.split() for line in planned.stdout.splitlines() if re.match(r"\* +[A-Z]", line))
    family = load_family("small.toml")
    files = (family.base, family.deltas[0].tuned, family.deltas[0].reference)
    assert [Path(file).stem.rpartition("-")[2] for file in files] == chosen[1:4]
    assert planned.stdout.splitlines()[2] in (DOCS / "quantize.md").read_text("utf-8")  # the table that it shows
    assert last[0] == "run"
    assert run(last).stdout.strip()


def reader_of_family_page() -> None:
    """Models of the page's names, a family of them, texts, in the current folder."""
    for seed, member in ((1, "reference"), (1, "tuned"), (2, "base")):
        # rows of 256, so that no type falls back to another
        write_model(
            Path(f"{member}.gguf"),
            seed=seed,
            noise=0.1 * (member == "tuned"),
            n_embd=256,
            n_ff=256,
            n_layers=1,
            n_ctx=512,
        )
    Path("family.toml").write_text(family_file(), encoding="utf-8")
    for member, kind in (("base", "Q4_K_M"), ("tuned", "Q8_0")):
        run(["quantize", "produce", f"{member}.gguf", "--types", kind])


def reader_of_model_page() -> None:
    """The same for the comparison of one model's variants."""
    for kind in ("f16", "Q4_K_M", "Q8_0", "Q4_0"):
        write_model(Path(f"base-{kind}.gguf"), seed=1, noise=0.02 * (kind != "f16"), n_ctx=512)
    write_model(Path("base.gguf"), seed=1, n_ctx=512)


@pytest.mark.parametrize(
    ("page", "prepare", "first"),
    [("quantize.md", reader_of_model_page, 1), ("quantize-family.md", reader_of_family_page, 0)],
)
def test_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, prepare: Callable[[], None], first: int
) -> None:
    """On tiny models, block for block; a `record` of another text begins a folder anew, as its reader would."""
    monkeypatch.chdir(tmp_path)
    prepare()
    Path("world.txt").write_text("a lazy dog and a quick fox " * 200)
    talk = [{"role": "user", "content": "a lazy dog " * 20}, {"role": "assistant", "content": "a quick fox " * 20}]
    Path("chats.jsonl").write_text("\n".join([json.dumps(talk)] * 8))
    every = [words for block in commands(page)[first:] for words in block]
    assert len(every) >= 7
    for words in every:
        if words[1] == "record" and "--add" not in words:
            shutil.rmtree("recorded", ignore_errors=True)
        run(words)
