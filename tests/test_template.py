"""Chat templates: every builtin against its text by hand, messages, and 24 escapes and 15 bombs that get nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
from jinja2.ext import loopcontrols

from eftlite import template as module
from eftlite.errors import EFTError, InputError, TemplateError
from eftlite.template import (
    BUILTIN,
    MAX_OUTPUT_CHARS,
    MAX_SOURCE_BYTES,
    TRANSCRIPT_STOP,
    Template,
    fold_system,
    has_bos,
    normalise,
    transcript,
)

HELLO = [{"role": "user", "content": "Hello"}]
CONVERSATION = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": "Who are you?"},
]
ECHO = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
# A model file's template with everything that real ones use; its text is not the project's, so the child renders it.
STRANGER = """{{- bos_token }}
{%- set ns = namespace(first=true) %}
{%- macro head(role) %}{{ '<' ~ role ~ '>' }}{% endmacro %}
{%- for m in messages if m.role != 'system' %}
    {%- if loop.index0 == 3 %}{% break %}{% endif %}
    {%- generation %}{{ head(m['role']) + m['content'] | trim }}{% endgeneration %}
    {%- set ns.first = false %}
{%- endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}{% endif %}
{%- if add_generation_prompt %}{{ head('assistant') }}{% endif %}"""


@pytest.fixture
def no_child() -> Iterator[None]:
    """Before and after the test no child is running."""
    module._renderer(os.getpid()).close()
    yield
    module._renderer(os.getpid()).close()


def child() -> Any:
    """The process that renders, or None."""
    return module._renderer(os.getpid())._child


# ---- what templates write

EXPECTED = {
    "chatml": (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi!<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "falcon": "System: Be kind.\nUser: Hello\nAssistant: Hi!\nUser: Who are you?\nAssistant:",
    "gemma": (
        "<s><start_of_turn>user\nBe kind.\n\nHello<end_of_turn>\n<start_of_turn>model\nHi!<end_of_turn>\n"
        "<start_of_turn>user\nWho are you?<end_of_turn>\n<start_of_turn>model\n"
    ),
    "llama-2": ("<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHello [/INST] Hi! </s><s>[INST] Who are you? [/INST]"),
    "llama-3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHi!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "qwen3": (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi!<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ),
    "zephyr": (
        "<|system|>\nBe kind.</s>\n<|user|>\nHello</s>\n"
        "<|assistant|>\nHi!</s>\n<|user|>\nWho are you?</s>\n<|assistant|>\n"
    ),
}


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_builtin_templates(name: str) -> None:
    template = Template(BUILTIN[name], bos="<s>", eos="</s>")
    assert template.trusted
    assert template.render(CONVERSATION) == EXPECTED[name]


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_builtin_templates_without_system_and_prompt(name: str) -> None:
    template = Template(BUILTIN[name], bos="<s>", eos="</s>")
    alone = template.render(HELLO, add_generation_prompt=False)
    assert alone.count("Hello") == 1
    assert "ystem" not in alone
    assert "SYS" not in alone
    assert template.render(HELLO).startswith(alone)


def test_the_child_writes_what_this_process_writes() -> None:
    tools = [{"type": "function", "function": {"name": "über", "parameters": {"a": [1, 2.5, None, True]}}}]
    arguments: dict[str, Any] = {"tools": tools, "enable_thinking": False}
    here = Template(STRANGER, bos="<s>", trusted=True).render(CONVERSATION[1:], **arguments)
    as_json = json.dumps(tools, ensure_ascii=False)
    assert here == f"<s><user>Hello<assistant>Hi!<user>Who are you?{as_json}<think></think><assistant>"
    assert Template(STRANGER, bos="<s>").render(CONVERSATION[1:], **arguments) == here


def test_odd_text_reaches_the_template_and_comes_back() -> None:
    text = "\ud83d {{ 7 * 7 }} {% raw %} </s>\r\n\x00\u2028 \N{GRINNING FACE} " + "é" * 1_000_000
    messages = [{"role": "user", "content": text}]
    assert Template(ECHO).render(messages) == f"[user:{text}]"
    assert Template(ECHO, trusted=True).render(messages) == f"[user:{text}]"


def test_the_date_can_be_pinned() -> None:
    source = "{{ date_string if date_string is defined else strftime_now('%Y-%m') }}"
    assert Template(source).render(HELLO, date_string="26 Jul 2024") == "26 Jul 2024"
    assert Template(source).render(HELLO) in {
        time.strftime("%Y-%m"),
        time.strftime("%Y-%m", time.localtime(time.time() - 9)),
    }


@pytest.mark.parametrize("trusted", [True, False])
def test_system_text_is_folded_when_the_template_refuses_or_drops_it(trusted: bool) -> None:
    refusing = "{% for m in messages if m.role == 'system' %}{{ raise_exception('no system') }}{% endfor %}" + ECHO
    dropping = "{% for m in messages if m.role != 'system' %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
    for source in (refusing, dropping):
        text = Template(source, trusted=trusted).render(CONVERSATION)
        assert text == "[user:Be kind.\n\nHello][assistant:Hi!][user:Who are you?]"


@pytest.mark.parametrize("trusted", [True, False])
def test_a_refused_conversation_says_why(trusted: bool) -> None:
    template = Template("{{ raise_exception('Roles must\n alternate') }}", trusted=trusted)
    for messages in (HELLO, CONVERSATION):
        with pytest.raises(TemplateError) as caught:
            template.render(messages)
        assert caught.value.message == "chat template: Roles must alternate"
        assert "chatml" in caught.value.hint


@pytest.mark.parametrize("trusted", [True, False])
def test_a_broken_template_is_refused_when_it_is_made(trusted: bool) -> None:
    with pytest.raises(TemplateError, match=r"chat template: line 2: .*endfor"):
        Template("{% for m in messages %}\n{{ m }}{% endif %}", trusted=trusted)


def test_a_large_template_is_refused() -> None:
    assert Template("a" * MAX_SOURCE_BYTES).render(HELLO) == "a" * MAX_SOURCE_BYTES
    for source in ("a" * (MAX_SOURCE_BYTES + 1), "é" * (MAX_SOURCE_BYTES // 2 + 1)):
        with pytest.raises(TemplateError, match="expected at most 65536 bytes"):
            Template(source)


# ---- messages


def test_normalise_keeps_what_templates_may_see() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be kind.", "chat_template": "{{ evil }}"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "4", "tool_call_id": "1"},
    ]
    normal = normalise(messages)
    assert normal == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "a\nb", "name": "Ada"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "4", "tool_call_id": "1"},
    ]
    assert normal[2]["tool_calls"] is not calls
    assert normalise(normal) == normal


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ([], "messages: expected a list of at least one message, got []"),
        ("Hello", "messages: expected a list"),
        ({"role": "user"}, "messages: expected a list"),
        ([*HELLO, "Hello"], "messages[1]: expected an object"),
        ([{"content": "x"}], "messages[0].role: expected one of system, user, assistant, tool, got None"),
        ([*HELLO, {"role": "root", "content": "x"}], "messages[1].role: expected one of"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role: expected one of"),
        ([{"role": "user"}], "messages[0].content: expected a string or a list of text parts, got None"),
        ([{"role": "user", "content": 5}], "messages[0].content: expected a string or a list of text parts, got 5"),
        ([{"role": "user", "content": ["text"]}], "messages[0].content[0]: expected"),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], "messages[0].content[0]: expected"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": "x"}]}],
            "messages[0].content[1]: expected",
        ),
        ([{"role": "assistant", "content": "", "tool_calls": [object()]}], "messages[0]: expected JSON data"),
    ],
)
def test_unusable_messages_name_index_and_field(messages: Any, where: str) -> None:
    uses: tuple[Callable[[Any], object], ...] = (normalise, transcript, Template(BUILTIN["chatml"]).render)
    for use in uses:
        with pytest.raises(InputError) as caught:
            use(messages)
        assert caught.value.message.startswith(where)
        assert len(caught.value.message) < 300


def test_tools_must_be_data() -> None:
    with pytest.raises(InputError, match="tools: expected JSON data"):
        Template(BUILTIN["chatml"]).render(HELLO, tools=[{"function": print}])


def test_nobody_can_pass_other_variables() -> None:
    from_client: dict[str, Any] = {"bos_token": "x"}
    with pytest.raises(TypeError, match="bos_token"):
        Template(ECHO, trusted=True).render(HELLO, **from_client)


def test_fold_system() -> None:
    system, user, assistant = CONVERSATION[:3]
    assert fold_system([assistant, user, system, system, user]) == [
        assistant,
        {"role": "user", "content": "Be kind.\n\nBe kind.\n\nHello"},
        user,
    ]
    assert fold_system([system]) == [{"role": "user", "content": "Be kind."}]
    assert fold_system([{"role": "system", "content": ""}, user]) == [user]
    assert user["content"] == "Hello"


def test_transcript() -> None:
    assert transcript(CONVERSATION) == "Be kind.\n\nUser: Hello\nAssistant: Hi!\nUser: Who are you?\nAssistant:"
    assert transcript(HELLO) == "User: Hello\nAssistant:"
    assert all(stop in transcript(CONVERSATION) for stop in TRANSCRIPT_STOP)


def test_has_bos() -> None:
    assert has_bos("<s>[INST]", "<s>")
    assert not has_bos("[INST]<s>", "<s>")
    assert not has_bos("[INST]", "")


# ---- attacks

# Each gets out of plain jinja2: it makes the file MARK, or shows an object that no template should see.
WALK = "{% for c in ''.__class__.__mro__[1].__subclasses__() if c.__name__ == 'Popen' %}{{ c }}{% endfor %}"
ESCAPES = {
    "mro": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "base": "{{ ().__class__.__base__ }}",
    "subclasses to Popen": WALK,
    "globals of cycler": "{{ cycler.__init__.__globals__.os.mkdir('MARK') }}",
    "globals of joiner": "{{ joiner.__init__.__globals__['__builtins__']['open']('MARK', 'w').close() }}",
    "globals of namespace": "{{ namespace.__init__.__globals__ }}",
    "globals of a global": "{{ raise_exception.__globals__['__builtins__']['open']('MARK', 'w').close() }}",
    "builtins import": "{{ cycler.__init__.__globals__.__builtins__.__import__('os').system('echo x > MARK') }}",
    "self": "{{ self.__init__.__globals__.__builtins__ }}",
    "self's context": "{{ self._TemplateReference__context }}",
    "attr": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "attr by parts": "{{ ''|attr('__cla' ~ 'ss__')|attr('__base__') }}",
    "attr with escapes": "{{ ()|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "map of attr": "{{ ['']|map(attribute='__class__')|list }}",
    "map of attr filter": "{{ [()]|map('attr', '__class__')|list }}",
    "format": "{{ '{0.__class__}'.format(messages) }}",
    "format by attr (CVE-2025-27516)": "{{ ('{0.__class__.__mro__}'|attr('format'))(messages) }}",
    "format in a variable (CVE-2024-56326)": "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
    "format_map": "{{ '{m.__class__}'.format_map({'m': messages}) }}",
    "format through map": "{% for f in ['{0.__class__}']|map('attr', 'format') %}{{ f(messages) }}{% endfor %}",
    "items of an attribute": "{{ messages.append.__self__.__class__ }}",
    "code of a function": "{{ raise_exception.__code__ }}",
    "tojson's encoder": "{{ messages|tojson(cls=namespace, encode='{0.__class__}'.format) }}",
    "tojson's default": "{{ [cycler]|tojson(default='{0.__init__.__code__}'.format) }}",
}
SIGNS_OF_OBJECTS = ("<class", "<built-in", "<function", "<code", "<Context", "builtins", "<bound", "<method")


def unprotected(source: str) -> str:
    """What plain jinja2 makes of a template: proof that an attack is one."""
    environment = jinja2.Environment(extensions=[loopcontrols])
    environment.filters["tojson"] = json.dumps
    environment.globals["raise_exception"] = module._raise_exception
    return environment.from_string(source).render(messages=HELLO)


def has_escaped(text: str, mark: Path) -> bool:
    """Whether an attack did something or saw something."""
    return mark.exists() or any(sign in text for sign in SIGNS_OF_OBJECTS)


@pytest.mark.parametrize("name", sorted(ESCAPES))
def test_no_escape(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    source = ESCAPES[name].replace("MARK", mark.as_posix())
    assert has_escaped(unprotected(source), mark), "this is no attack"
    if mark.exists():
        mark.rmdir() if mark.is_dir() else mark.unlink()
    for trusted in (False, True):
        try:
            text = Template(source, trusted=trusted).render(HELLO)
        except TemplateError as error:
            text = error.message
        assert not has_escaped(text, mark)
        assert Template(ECHO, trusted=trusted).render(HELLO) == "[user:Hello]"


BOMBS = {
    "nested loops": "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3,
    "loop that writes": "{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "range": "{{ range(10 ** 12) | list }}",
    "string": "{{ 'a' * 10 ** 10 }}",
    "list": "{{ [1] * 10 ** 10 }}",
    "doubling": "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubling a list": "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "width": "{{ '%10000000000d' % 1 }}",
    "format": "{{ '{:>10000000000}'.format(1) }}",
    "center": "{{ 'a' | center(10 ** 10) }}",
    "replace": "{{ 'a' | replace('', 'b' * 99999) | replace('', 'b' * 99999) }}",
    "macro": "{% macro f(n) %}{{ f(n + 1) ~ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "parentheses": "{{ " + "(" * 30000 + ")" * 30000 + " }}",
    "blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 2500,
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_no_bomb(name: str) -> None:
    start = time.perf_counter()
    with pytest.raises(TemplateError) as caught:
        Template(BOMBS[name]).render(HELLO)
    seconds = time.perf_counter() - start
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    print(f"{name}: {seconds:.2f} s, {caught.value.message}")
    assert seconds < 2
    assert Template(ECHO).render(HELLO) == "[user:Hello]"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits a process's memory")
def test_memory_is_limited() -> None:
    assert Template("{{ ('a' * 10 ** 8) | length }}").render(HELLO) == "100000000"
    with pytest.raises(TemplateError, match="MemoryError"):
        Template(f"{{{{ ('a' * {module.MEMORY_LIMIT_BYTES}) | length }}}}").render(HELLO)


@pytest.mark.parametrize("trusted", [True, False])
def test_output_is_bounded_by_the_input(trusted: bool) -> None:
    source = "{% for i in range(99999) %}{{ messages[0].content }}{% if i == n %}{% break %}{% endif %}{% endfor %}"
    content = "a" * (MAX_OUTPUT_CHARS // 4)
    messages = [{"role": "user", "content": content}]
    assert len(Template(source.replace("== n", "== 7"), trusted=trusted).render(messages)) == 8 * len(content)
    with pytest.raises(TemplateError, match="it writes more than 2097152 characters"):
        Template(source.replace("== n", "== 8"), trusted=trusted).render(messages)


# ---- the child process


def test_the_child_is_started_late_and_replaced_when_it_dies(no_child: None) -> None:
    Template(BUILTIN["chatml"]).render(HELLO)
    assert child() is None
    Template(ECHO).render(HELLO)
    first = child()
    Template(STRANGER).render(HELLO)
    assert child() is first
    first.kill()
    first.wait()
    assert Template(ECHO).render(HELLO) == "[user:Hello]"
    assert child() is not first


def test_a_child_that_dies_at_work_is_reported_and_replaced(no_child: None) -> None:
    template = Template("{% for i in range(10 ** 4) %}{% for j in range(10 ** 4) %}{% endfor %}{% endfor %}done")
    killer = threading.Timer(0.2, child().kill)
    killer.start()
    with pytest.raises(TemplateError, match="or crashes"):
        template.render(HELLO)
    killer.join()
    assert child() is None
    assert Template(ECHO).render(HELLO) == "[user:Hello]"


def test_an_interrupted_request_leaves_no_answer_behind(no_child: None, monkeypatch: pytest.MonkeyPatch) -> None:
    template = Template(ECHO)

    def interrupt(child: Any, request: bytes) -> bytes:
        child.stdin.write(request)
        child.stdin.flush()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the patch ends with it
        patch.setattr(module, "_exchange", interrupt)
        template.render([{"role": "user", "content": "first"}])
    assert template.render([{"role": "user", "content": "second"}]) == "[user:second]"


def test_threads_share_the_child(no_child: None) -> None:
    template = Template(ECHO)
    wrong: list[str] = []

    def ask(name: str) -> None:
        for index in range(50):
            text = f"{name} {index}"
            if template.render([{"role": "user", "content": text}]) != f"[user:{text}]":
                wrong.append(text)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_no_python_is_a_clear_error(no_child: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BOOT", "raise SystemExit(3)")
    with pytest.raises(EFTError, match="does not start"):
        Template(ECHO)
    assert child() is None


def run_python(script: str) -> str:
    """What a script prints in an interpreter of its own; nothing may appear on stderr."""
    # Python 3.12 warns of a fork where there are threads; the watch over an answer is one for a moment.
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", script]
    root = Path(__file__).parents[1]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=root)
    assert not result.stderr
    return result.stdout


PARENT = """
import os, threading
from eftlite import template
template.Template({echo!r})
print(template._renderer(os.getpid())._child.pid, flush=True)
"""
KILLED = "os.kill(os.getpid(), 9)"
KILLED_AT_WORK = (
    "threading.Timer(0.2, os.kill, [os.getpid(), 9]).start(); template.Template({bomb!r}).render({hello!r})"
)


@pytest.mark.skipif(sys.platform == "win32", reason="asks for a process by a signal")
@pytest.mark.parametrize("end", ["", KILLED, KILLED_AT_WORK])
def test_the_child_ends_with_its_parent(end: str) -> None:
    script = (PARENT + end).format(echo=ECHO, bomb=BOMBS["power"], hello=HELLO)
    pid = int(run_python(script))
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline, "the child is still there"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie that only waits for whoever adopted it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    try:
        return not status.parent.parent.is_dir() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_child_knows_no_secrets(no_child: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    Template(ECHO)
    assert b"secret" not in Path(f"/proc/{child().pid}/environ").read_bytes()


FORK = """
import os
from eftlite import template
chat = template.Template({echo!r})
renderer = template._renderer(os.getpid())
child = renderer._child
if not (pid := os.fork()):
    try:
        renderer.close()  # as atexit would
        assert template._renderer(os.getpid()) is not renderer
        print(chat.render({hello!r}), flush=True)
        template._renderer(os.getpid()).close()
    finally:
        os._exit(0)
os.waitpid(pid, 0)
print(chat.render({hello!r}), renderer._child is child)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_gets_a_child_of_its_own() -> None:
    assert run_python(FORK.format(echo=ECHO, hello=HELLO)).split() == ["[user:Hello]", "[user:Hello]", "True"]
