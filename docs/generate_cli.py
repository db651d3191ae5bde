"""Writes the help texts into docs/cli.md: `python docs/generate_cli.py`; --check only says whether they are current.

Runs the command line as a user does, so that it needs to know nothing about how it is built.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).resolve().parent / "cli.md"
ROOT = PAGE.parents[1]
BEGIN = "<!-- help: written by docs/generate_cli.py; do not edit below -->\n"
END = "<!-- end of help -->\n"
RUN = "import sys; sys.argv[0] = 'eftlite'; from eftlite.cli import main; main()"


def help_text(words: tuple[str, ...]) -> str:
    """What `eftlite WORDS --help` prints, at a fixed width."""
    command = [sys.executable, "-c", RUN, *words, "--help"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, env=environment, check=False)
    if result.returncode:
        raise SystemExit(f"eftlite {' '.join(words)} --help failed:\n{result.stderr}")
    return result.stdout.rstrip()


def verbs(text: str) -> list[str]:
    """The names under "Commands:" in a help text."""
    _, _, commands = text.partition("\nCommands:\n")
    return re.findall(r"^  ([a-z][\w-]*)(?:  |$)", commands, re.MULTILINE)


def help_pages(words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every command with its help text, the program itself first."""
    text = help_text(words)
    yield words, text
    for verb in verbs(text):
        yield from help_pages((*words, verb))


def section(words: tuple[str, ...], text: str) -> str:
    """One command as Markdown."""
    return f"### {' '.join(('eftlite', *words))}\n\n```text\n{text}\n```\n"


def render(page: str) -> str:
    """The page with its help texts renewed."""
    head, _, rest = page.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE.name} has lost its markers")
    body = "\n".join(section(words, text) for words, text in help_pages())
    return f"{head}{BEGIN}\n{body}\n{END}{tail}"


def main() -> None:
    """Write the page, or with --check exit 1 when it is not current."""
    page = PAGE.read_text(encoding="utf-8")
    renewed = render(page)
    if "--check" in sys.argv[1:]:
        # Wrapping may differ between releases of click; words may not.
        sys.exit("docs/cli.md is not current: python docs/generate_cli.py" if renewed.split() != page.split() else 0)
    PAGE.write_text(renewed, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
