"""What Open WebUI does with a function of one file, as far as a pipe can tell: the loader, forms, models, answers.

Written after the behaviour of release 0.12.4.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import AsyncGenerator, Generator, Mapping
from pathlib import Path
from typing import Any

# The loader rewrites these wherever they stand in a file's text.
REWRITTEN = ("from utils", "from apps", "from main", "from config")


def front_matter(text: str) -> dict[str, str]:
    """The keys of a file's first docstring, which must open on a line of its own."""
    lines = iter(text.splitlines())
    if next(lines, "").strip() != '"""':
        return {}
    found = {}
    for line in lines:
        if '"""' in line:
            break
        if match := re.match(r"\s*([A-Za-z_]+):\s*(.*)", line):
            found[match[1]] = match[2].strip()
    return found


class OpenWebUI:
    """A host with one function in it.

    Attributes:
        valves: as the administrator saved them.
        user_valves: as the user did.
        module: what the file became.
    """

    def __init__(self, path: Path, function_id: str = "eftlite") -> None:
        text = path.read_text(encoding="utf-8")
        assert not [words for words in REWRITTEN if words in text]
        self.about = front_matter(text)
        self.id = function_id
        self.valves: dict[str, Any] = {}
        self.user_valves: dict[str, Any] = {}
        self._function = self._load(text)

    def _load(self, text: str) -> Any:
        """The text is executed in a module that is known by its name meanwhile."""
        self.module: Any = types.ModuleType(f"function_{self.id}")
        sys.modules[self.module.__name__] = self.module
        exec(text, self.module.__dict__)
        return self.module.Pipe()

    def save(self, which: str, form: Mapping[str, Any]) -> None:
        """What a form's button does with "valves" or "user_valves"; fields of a form are texts."""
        kind = {"valves": self._function.Valves, "user_valves": self._function.UserValves}[which]
        filled = {name: value for name, value in form.items() if value is not None}
        setattr(self, which, kind(**filled).model_dump(exclude_unset=True))

    def _ready(self) -> Any:
        self._function.valves = self._function.Valves(**self.valves)
        return self._function

    async def models(self) -> dict[str, str]:
        """Names of the models in the picker, by their ids."""
        function = self._ready()
        prefix = getattr(function, "name", "")
        return {f"{self.id}.{pipe['id']}": f"{prefix}{pipe['name']}" for pipe in await function.pipes()}

    async def answer(self, body: dict[str, Any], **metadata: Any) -> Any:
        """An answer: the chunks of a stream, or one text; an error is ``{"error": {"detail": …}}``."""
        function = self._ready()
        extra = {"__user__": {"id": "1", "valves": function.UserValves(**self.user_valves)}, "__task__": None}
        known = inspect.signature(function.pipe).parameters
        given = {name: value for name, value in {**extra, **metadata}.items() if name in known}
        try:
            result = function.pipe(body=body, **given)
            result = await result if inspect.isawaitable(result) else result
        except Exception as error:  # noqa: BLE001  as the host does
            return {"error": {"detail": str(error)}}
        if isinstance(result, dict):
            return [result] if body.get("stream") else result
        if isinstance(result, AsyncGenerator):
            pieces = [piece async for piece in result]
        else:
            pieces = list(result) if isinstance(result, Generator) else [result]
        return pieces if body.get("stream") else "".join(map(str, pieces))
