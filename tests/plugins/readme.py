"""A plugin's README: the commands it shows, and its servers, started as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.server.serving import SERVE


def commands(page: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The settings and words of every shell command that a page shows."""
    for block in re.findall(
        r"^```(?:sh|console)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            settings: dict[str, str] = {}
            while words and (match := re.fullmatch(r"([A-Z_]+)=(.*)", words[0])):
                settings[match[1]] = match[2]
                words.pop(0)
            yield settings, words


@contextmanager
def started(settings: dict[str, str], words: list[str]) -> Iterator[int]:
    """``eftlite serve`` as a page has it, but for its port, which is given."""
    assert words[:2] == ["eftlite", "serve"]
    command = [*SERVE, *words[2:]]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **settings}
    ) as server:
        try:
            ports = (re.search(r"http://[\w.]+:(\d+)", line) for line in server.stdout or ())
            yield int(next(match[1] for match in ports if match))
        finally:
            server.terminate()
            server.communicate(timeout=20)
