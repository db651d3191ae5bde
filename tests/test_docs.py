"""The manual is true: its commands run, its Python runs, every command is in it, its links lead somewhere.

Commands that answer are run on the bundled family in a folder that holds it under the names the manual uses. Commands
about models one would have to fetch, and those that take minutes, are checked by name: verb and options exist.
"""

from __future__ import annotations

import inspect
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from eftlite.hub.reference import parse as parse_reference
from tests.server.serving import served

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MANUAL = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
PAGES = [*MANUAL, ROOT / "CHANGELOG.md", *sorted((ROOT / "plugins").rglob("*.md"))]
GENERATOR = runpy.run_path(str(DOCS / "generate_cli.py"))

# Whole question sets, benchmarks, texts read by many models; the tests of those verbs run them in small, and
# tests/quantize/test_manual.py every command of `quantize`. A server does not end by itself, nor does a worker.
TOO_LONG = {"demo", "bench", "serve", "quantize", "worker", "pull"}
# Commands of programs that tests/server drives against a real server.
TESTED_THERE = {"lm_eval"}
# Typed into every command that reads: a chat of one message.
TYPED = "Hello!\n/exit\n"
SYSTEM_TOOLS = {"git", "cd", "sudo", "xcode-select", "ssh"}


def name(path: Path) -> str:
    """A file as messages and test ids show it."""
    return path.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced code block: where its first line stands, its language, its text."""

    page: Path
    line: int
    language: str
    text: str


@cache
def blocks(page: Path) -> list[Block]:
    """All fenced code blocks of a page."""
    found, inside, start, language = [], False, 0, ""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if inside:
            found.append(Block(page, start, language, "\n".join(lines[start - 1 : number - 1])))
        else:
            start, language = number + 1, line[3:].strip()
        inside = not inside
    assert not inside, f"{name(page)}: a code block is never closed"
    return found


@dataclass(frozen=True)
class Command:
    """One shell command: environment settings, words, and what is piped into it."""

    place: str
    words: tuple[str, ...]
    environment: dict[str, str]
    typed: str

    @property
    def program(self) -> str:
        """The program's own name, without folder."""
        return Path(self.words[0]).name

    @property
    def text(self) -> str:
        """The command as written."""
        return shlex.join(self.words)


def parse(place: str, line: str) -> Command:
    """A line of a shell block; of a pipe the first command must be an echo, whose words become the input."""
    source, _, sink = line.rpartition(" | ")
    typed = TYPED
    if source:
        program, *words = shlex.split(source)
        assert program == "echo", f"{place}: expected echo before the pipe, got {program}"
        typed = " ".join(words) + "\n"
    words = shlex.split(sink, comments=True)
    environment = {}
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        key, _, value = words.pop(0).partition("=")
        environment[key] = value
    return Command(place, tuple(words), environment, typed)


def commands() -> Iterator[Command]:
    """Every command shown: lines after ``$`` of console blocks, all lines of sh blocks."""
    for page in MANUAL:
        for block in blocks(page):
            for number, line in enumerate(block.text.splitlines(), block.line):
                shown = line.removeprefix("$ ") if block.language == "console" else line
                wanted = line.startswith("$ ") if block.language == "console" else block.language == "sh"
                if wanted and shown.strip() and not shown.startswith("#"):
                    yield parse(f"{name(page)}:{number}", shown)


COMMANDS = list(commands())


def needs_models(command: Command, folder: set[str]) -> bool:
    """Whether the command names a model that the folder of the test does not hold."""
    return (
        "--preset" in command.words
        or any(map(parse_reference, command.words))
        or any(word.endswith((".gguf", ".toml")) and word not in folder for word in command.words)
    )


EFTLITE = [command for command in COMMANDS if command.program == "eftlite"]
HERE = {"base.gguf", "tuned.gguf", "reference.gguf", "lora.gguf", "family.toml"}
RUNNABLE = [
    command for command in EFTLITE if not needs_models(command, HERE) and not TOO_LONG.intersection(command.words[1:2])
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_family: dict[str, Path]) -> Path:
    """A working folder as the manual assumes it: models, an adapter and the first family file of docs/models.md."""
    place = tmp_path_factory.mktemp("manual")
    for role in ("base", "tuned", "reference", "lora"):
        shutil.copyfile(demo_family[role], place / f"{role}.gguf")
    family = next(block for block in blocks(DOCS / "models.md") if block.language == "toml")
    (place / "family.toml").write_text(family.text, encoding="utf-8")
    run_eftlite(("chat",), place, "Where is Kelworth?\n/exit\n")  # a conversation for `eftlite history`
    return place


# --- commands ---


def shared_folders(folder: Path) -> dict[str, str]:
    """One cache and one history for all tests here, as a user has: batches' costs are measured once."""
    return {"EFTLITE_CACHE_DIR": str(folder / "cache"), "EFTLITE_STATE_DIR": str(folder / "state")}


def run_eftlite(words: tuple[str, ...], folder: Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in folder, as the user of an installed eftlite would."""
    command = [sys.executable, "-c", GENERATOR["RUN"], *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **shared_folders(folder)}
    return subprocess.run(
        command,
        input=typed,
        capture_output=True,
        encoding="utf-8",
        cwd=folder,
        env=environment,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", RUNNABLE, ids=lambda command: command.place)
def test_command_runs(command: Command, folder: Path) -> None:
    result = run_eftlite(command.words[1:], folder, command.typed)
    assert result.returncode == 0, f"{command.text}\n{result.stderr}"
    assert "Traceback" not in result.stderr, result.stderr
    assert result.stdout.strip(), f"{command.text} printed nothing"


@cache
def help_of(verb: str) -> str:
    """A verb's help text, or that of a verb's own verb; the program's own for the empty name."""
    text: str = GENERATOR["help_text"](tuple(verb.split()))
    return text


@cache
def verbs() -> list[str]:
    """The command line's verbs."""
    found: list[str] = GENERATOR["verbs"](help_of(""))
    return found


@pytest.mark.parametrize("command", EFTLITE, ids=lambda command: command.place)
def test_command_names_real_verbs_and_options(command: Command) -> None:
    words = list(command.words[1:])
    verb = "" if not words or words[0].startswith("-") else words[0]
    assert not verb or verb in verbs(), f"eftlite has no command {verb}"
    if below := GENERATOR["verbs"](help_of(verb)) if verb else []:
        assert words[1] in below, f"eftlite {verb} has no command {words[1]}"
        verb = f"{verb} {words[1]}"
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    unknown = [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", help_of(verb))]
    assert not unknown, f"{command.text}: {verb or 'eftlite'} has no {', '.join(unknown)}"


def make_targets() -> set[str]:
    """Names that `make` accepts."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(" ".join(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)).split())


def pyproject() -> dict[str, Any]:
    """The [project] table."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def check_make(command: Command) -> None:
    """Targets exist; variables are ones the Makefile reads."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in command.words[1:]:
        variable, is_setting, _ = word.partition("=")
        if is_setting:
            assert re.search(rf"^{variable} \?=", makefile, re.MULTILINE), f"the Makefile does not read {variable}"
        else:
            assert word in make_targets(), f"no target {word}"


def check_pip(words: tuple[str, ...]) -> None:
    """Extras exist; a pinned requirement is pinned as in pyproject.toml."""
    project = pyproject()
    for word in words:
        for extra in re.findall(r"[\w-]+", "".join(re.findall(r"^(?:\.|eftlite)\[(.*)\]$", word))):
            assert extra in project["optional-dependencies"], f"no extra {extra}"
        if "==" in word:
            assert word in project["dependencies"], f"{word} is not what pyproject.toml pins"


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command.program != "eftlite"], ids=lambda command: command.place
)
def test_other_command_is_sound(command: Command) -> None:
    if command.program == "make":
        check_make(command)
    elif command.program.startswith("python"):
        assert command.words[1] == "-m"
        assert command.words[2] in {"venv", "pip", "pytest"}
        if command.words[2] == "pip":
            assert command.words[3] == "install"
            check_pip(command.words[4:])
    else:
        assert command.program in SYSTEM_TOOLS | TESTED_THERE, (
            f"{command.place}: nothing here knows how to check {command.program}"
        )


def test_readme_begins_with_its_two_commands() -> None:
    first = blocks(ROOT / "README.md")[0]
    assert (first.language, first.text.split("\n"), first.line) == ("console", ["$ make demo", "$ make test"], 4)


def test_manual_shows_enough_to_test() -> None:
    """Guards the collecting above: an empty list would pass."""
    assert len(RUNNABLE) >= 5
    assert {command.program for command in COMMANDS} >= {"make", "eftlite", "python"}
    assert sum(block.language == "python" for page in MANUAL for block in blocks(page)) >= 5


# --- the command line's page ---


def test_help_texts_are_current() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    # Wrapping may differ between releases of click; words may not.
    assert page.split() == GENERATOR["render"](page).split(), "renew them: python docs/generate_cli.py"


def test_every_command_is_documented() -> None:
    """Each verb is shown in use somewhere outside the generated help texts, and has a help text of its own."""
    written = "\n".join(page.read_text(encoding="utf-8").partition(GENERATOR["BEGIN"])[0] for page in MANUAL)
    missing = [verb for verb in verbs() if f"eftlite {verb}" not in written]
    assert not missing, f"the manual does not mention {', '.join(missing)}"
    silent = [verb for verb in verbs() if len(help_of(verb).partition("\n\n")[2].partition("Options:")[0].split()) < 3]
    assert not silent, f"no help text: {', '.join(silent)}"


def test_every_chat_command_is_documented(folder: Path) -> None:
    """What `/help` lists in a chat is what docs/cli.md lists."""
    listed = run_eftlite(("chat",), folder, "/help\n/exit\n").stdout
    page = (DOCS / "cli.md").read_text(encoding="utf-8").partition(GENERATOR["BEGIN"])[0]
    documented = set(re.findall(r"`(/[a-z]+)", page))
    assert documented == set(re.findall(r"^(/[a-z]+)", listed, re.MULTILINE))


# --- Python ---

ADDRESS = "127.0.0.1:8484"  # of the server in the manual
PYTHON_PAGES = [page for page in MANUAL if any(block.language == "python" for block in blocks(page))]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name)
def test_python_examples_run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page in order, in one namespace, as a reader would type them."""
    from eftlite import EFT

    monkeypatch.chdir(folder)
    for variable, value in shared_folders(folder).items():
        monkeypatch.setenv(variable, value)
    examples = [block for block in blocks(page) if block.language == "python"]
    space: dict[str, Any] = {"__name__": "manual"}
    try:
        with server_of(examples) as address:
            for block in examples:
                # Blank lines before it make a traceback point at the page's own line.
                text = "\n" * (block.line - 1) + block.text.replace(ADDRESS, address)
                exec(compile(text, name(page), "exec"), space)
    finally:
        for value in space.values():
            if isinstance(value, EFT):
                value.close()


@contextmanager
def server_of(examples: list[Block]) -> Iterator[str]:
    """The address of a server, if the examples speak to one."""
    if any(ADDRESS in block.text for block in examples):
        with served() as url:
            yield url.removeprefix("http://")
    else:
        yield ADDRESS


def test_every_argument_of_eft_is_documented() -> None:
    from eftlite import EFT

    page = (DOCS / "python.md").read_text(encoding="utf-8")
    missing = [argument for argument in inspect.signature(EFT).parameters if f"`{argument}`" not in page]
    assert not missing, f"docs/python.md does not mention {', '.join(missing)}"


# --- links ---

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert not broken, f"{name(page)}: {', '.join(broken)}"


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    missing = [page.name for page in DOCS.glob("*.md") if page.name != "index.md" and f"({page.name})" not in index]
    assert not missing
