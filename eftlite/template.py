"""Chat templates: messages to a prompt, in jinja2's immutable sandbox; nothing in a model file can run as code.

Knows messages and text, never tokens or models. A template from a model file is a stranger's program: the sandbox
keeps it from Python's objects, and a child process that ends itself after a time keeps it from everything else.
Templates that the project ships are rendered here.

Not guaranteed:
    * outside Linux only the time limit bounds a template's memory;
    * control tokens spelled out in a message are not escaped: whoever tokenizes the prompt decides what they mean.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import json
import os
import reprlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import markupsafe

from eftlite.chat_formats import BUILTIN
from eftlite.errors import EFTError, InputError, TemplateError

__all__ = ["BUILTIN", "TRANSCRIPT_STOP", "Template", "fold_system", "has_bos", "normalise", "transcript"]

MAX_SOURCE_BYTES = 64 << 10
MAX_OUTPUT_CHARS = 1 << 20  # or 8 times the messages, if that is more
TIME_LIMIT_S = 1.5
MEMORY_LIMIT_BYTES = 512 << 20
ROLES = ("system", "user", "assistant", "tool")
TRANSCRIPT_STOP = ("\nUser:", "\nAssistant:")


# ---- messages


def normalise(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with known roles and string contents; InputError names the message's index and the field.

    "developer" becomes "system"; text parts are joined by newlines, as in llama.cpp's server. Of other keys only
    name, tool_calls and tool_call_id are kept.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise InputError(f"messages: expected a list of at least one message, got {reprlib.repr(messages)}")
    return [_normal_message(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _normal_message(where: str, message: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InputError(f"{where}: expected an object with role and content, got {reprlib.repr(message)}")
    role = "system" if message.get("role") == "developer" else message.get("role")
    if role not in ROLES:
        raise InputError(f"{where}.role: expected one of {', '.join(ROLES)}, got {reprlib.repr(role)}")
    content = "" if message.get("content") is None and message.get("tool_calls") else message.get("content")
    rest = {key: message[key] for key in ("name", "tool_calls", "tool_call_id") if message.get(key) is not None}
    return {"role": role, "content": _content_text(f"{where}.content", content), **_plain_data(where, rest)}


def _content_text(where: str, content: object) -> str:
    """The text of a message's content: a string, or text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise InputError(f"{where}: expected a string or a list of text parts, got {reprlib.repr(content)}")
    for index, part in enumerate(content):
        is_text = isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        if not is_text:
            expected = 'expected {"type": "text", "text": a string}'
            raise InputError(f"{where}[{index}]: {expected}, got {reprlib.repr(part)}")
    return "\n".join(part["text"] for part in content)


def _plain_data(where: str, value: Any) -> Any:
    """A copy of JSON data, so that no Python object of the caller reaches a template."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: expected JSON data, got {reprlib.repr(value)} ({error})") from None


def fold_system(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A normalised conversation without system messages: their text begins the first user turn, as Gemma wants it."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system" and m["content"])
    folded = [dict(m) for m in messages if m["role"] != "system"]
    first_user = next((m for m in folded if m["role"] == "user"), None)
    if first_user is None:
        return [{"role": "user", "content": system}, *folded]
    if system:
        first_user["content"] = f"{system}\n\n{first_user['content']}"
    return folded


def transcript(messages: Sequence[Mapping[str, Any]]) -> str:
    r"""A plain transcript for pre-trained members: ``"User: …\nAssistant:"``; generate with TRANSCRIPT_STOP."""
    turns = normalise(messages)
    system = [turn["content"].strip() + "\n" for turn in turns if turn["role"] == "system"]
    lines = [f"{turn['role'].capitalize()}: {turn['content'].strip()}" for turn in turns if turn["role"] != "system"]
    return "\n".join([*system, *lines, "Assistant:"])


def has_bos(text: str, bos: str) -> bool:
    """Whether a prompt already begins with the BOS text, so that the tokenizer must not add another one."""
    return bool(bos) and text.startswith(bos)


# ---- the sandbox; used here for trusted templates, in the child for all others


class _RefusedError(jinja2.TemplateError):
    """The template called raise_exception."""


class _GenerationTag(jinja2.ext.Extension):
    """Passes the body of ``{% generation %}`` through, transformers' mark of what an assistant wrote."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an attribute of instances

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise _RefusedError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None) -> str:
    """Without the escapes for HTML of jinja2's own; fixed arguments, because json.dumps would call a ``cls``."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators)


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
    """The template in an environment like that of transformers and llama-cpp-python."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise_exception, strftime_now=time.strftime)
    del environment.globals["lipsum"]
    return environment.from_string(source)


def _expand(template: jinja2.Template, variables: dict[str, Any], max_chars: int) -> str:
    """The template's text, given up as soon as it is too long."""
    chunks, n_chars = [], 0
    for chunk in template.generate(variables):
        chunks.append(chunk)
        n_chars += len(chunk)
        if n_chars > max_chars:
            raise OverflowError(f"it writes more than {max_chars} characters")
    return "".join(chunks)


def _render(source: str, conversations: list[list[dict[str, Any]]], variables: dict[str, Any]) -> str:
    """The first of a conversation's spellings that the template neither refuses nor loses the system text of.

    The last one must have no system message; if there is none at all, the template is only compiled.
    """
    template = _compiled(source)
    text = ""
    for messages in conversations:
        max_chars = max(MAX_OUTPUT_CHARS, 8 * sum(len(message["content"]) for message in messages))
        system = [message["content"].strip() for message in messages if message["role"] == "system"]
        try:
            text = _expand(template, {**variables, "messages": messages}, max_chars)
        except _RefusedError:
            if not system:
                raise
        else:
            if all(part in text for part in system):
                break
    return text


def _answer(request: dict[str, Any]) -> dict[str, str]:
    """``{"text": …}`` or, when anything at all goes wrong, ``{"error": one line}``."""
    try:
        return {"text": _render(**request)}
    except Exception as error:  # noqa: BLE001 - a template can raise whatever Python can
        line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
        words = " ".join(str(error).split())[:300]
        return {"error": f"{line}{words or type(error).__name__}"}


# ---- the child process

# A stand-in for the package's __init__: the child loads this file and the two it imports. It starts faster without
# `site` (-S), hence the folders of jinja2 and markupsafe as arguments.
_BOOT = (
    "import sys, types; package = types.ModuleType('eftlite'); package.__path__ = sys.argv[1:2]; "
    "sys.modules['eftlite'] = package; sys.path += sys.argv[2:]; from eftlite.template import _serve; _serve()"
)
# All that the child gets of the environment: no tokens, no passwords.
_KEPT_ENVIRONMENT = ("PATH", "SYSTEMROOT", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_HINT = "Choose another template by name: " + ", ".join(BUILTIN)
_HANG_LIMIT_S = 20.0  # for a child that can neither start nor end itself


def _serve() -> None:
    """The child's main loop: a request a line, a reply a line, until the parent closes the pipe or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C in a terminal reaches the child too
    if sys.platform != "win32":
        import resource  # POSIX only

        for kind, limit in ((resource.RLIMIT_AS, MEMORY_LIMIT_BYTES), (resource.RLIMIT_FSIZE, 0)):
            with contextlib.suppress(OSError, ValueError):  # macOS knows RLIMIT_AS and refuses it
                resource.setrlimit(kind, (limit, limit))
    reply = b""
    while True:
        sys.stdout.buffer.write(reply + b"\n")
        sys.stdout.buffer.flush()
        request = sys.stdin.buffer.readline()
        if not request:
            return
        # A thread in C, which ends the process even when the template never lets go of the interpreter.
        faulthandler.dump_traceback_later(TIME_LIMIT_S, exit=True)
        reply = json.dumps(_answer(json.loads(request))).encode()
        faulthandler.cancel_dump_traceback_later()


class _Renderer:
    """The child process that renders untrusted templates; started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._child: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, str]:
        """The child's answer; one that failed is replaced with the next request. EFTError if none can be started."""
        reply = b""
        with self._lock:
            try:
                reply = _exchange(self._running(), json.dumps(request).encode() + b"\n")
            finally:
                if not reply:  # after Ctrl+C too: nobody may take this request's answer for the next one's
                    self._end()
        gave_up = f"it takes more than {TIME_LIMIT_S:g} s or {MEMORY_LIMIT_BYTES >> 20} MiB of memory, or crashes"
        return dict(json.loads(reply)) if reply else {"error": gave_up}

    def close(self) -> None:
        """End the child, if there is one and it is this process's; the next request starts another."""
        if os.getpid() == self._owner:
            with self._lock:
                self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._child = _start()
            if not _exchange(self._child, b""):
                hint = f"Check that {sys.executable} runs and can import jinja2"
                raise EFTError("chat template: the process that renders it does not start", hint)
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()  # waits, and closes the pipes


def _start() -> subprocess.Popen[bytes]:
    folders = [str(Path(str(module.__file__)).parents[1]) for module in (jinja2, markupsafe)]
    return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
        [sys.executable, "-I", "-S", "-c", _BOOT, str(Path(__file__).parent), *folders],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def _exchange(child: subprocess.Popen[bytes], request: bytes) -> bytes:
    """Write a request, or nothing, and read a line; empty if the child has ended."""
    timer = threading.Timer(_HANG_LIMIT_S, child.kill)
    timer.start()
    try:
        pipe_in, pipe_out = cast(IO[bytes], child.stdin), cast(IO[bytes], child.stdout)
        pipe_in.write(request)
        pipe_in.flush()
        line = pipe_out.readline()
    except OSError:
        return b""
    finally:
        timer.cancel()
    return line if line.endswith(b"\n") else b""


@functools.cache
def _renderer(_pid: int) -> _Renderer:
    """The renderer of a process; by its id, so that after a fork nobody shares a child."""
    renderer = _Renderer()
    atexit.register(renderer.close)
    return renderer


class Template:
    """A chat template, compiled and checked.

    Attributes:
        source: jinja2 text.
        bos, eos: texts of the tokens, for ``bos_token`` and ``eos_token`` in the template.
        trusted: rendered in this process; the project's own templates are, whatever the caller says.
    """

    def __init__(self, source: str, *, bos: str = "", eos: str = "", trusted: bool = False) -> None:
        """Raise TemplateError if the template is larger than 64 KiB or does not compile."""
        n_bytes = len(source.encode(errors="replace"))
        if n_bytes > MAX_SOURCE_BYTES:
            raise TemplateError(f"chat template: expected at most {MAX_SOURCE_BYTES} bytes, got {n_bytes}", _HINT)
        self.source, self.bos, self.eos = source, bos, eos
        self.trusted = trusted or source in BUILTIN.values()
        self._ask([], {})

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        reasoning_effort: str | None = None,
        date_string: str | None = None,
    ) -> str:
        """The prompt for a conversation.

        A template that refuses or loses system messages gets their text in the first user turn. These keyword
        arguments are all that can reach a template; except for tools, those that are None are undefined there.

        Raises InputError for messages or tools that cannot be used, and TemplateError if the template refuses them,
        attacks, or takes too much time, memory or space.
        """
        turns = normalise(messages)
        folded = [fold_system(turns)] if any(turn["role"] == "system" for turn in turns) else []
        options = {"enable_thinking": enable_thinking, "reasoning_effort": reasoning_effort, "date_string": date_string}
        variables = {
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos,
            "eos_token": self.eos,
            "tools": None if tools is None else _plain_data("tools", tools),
            **{name: value for name, value in options.items() if value is not None},
        }
        return self._ask([turns, *folded], variables)

    def _ask(self, conversations: list[list[dict[str, Any]]], variables: dict[str, Any]) -> str:
        request = {"source": self.source, "conversations": conversations, "variables": variables}
        reply = _answer(request) if self.trusted else _renderer(os.getpid()).ask(request)
        if "error" in reply:
            raise TemplateError(f"chat template: {reply['error']}", _HINT)
        return reply["text"]
