"""What text-generation-webui does with an extension that answers in place of a model, and a gradio that only notes.

Written after the behaviour of its sources of May 2026 and their documentation of extensions.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jinja2
import pytest

# The part of textgen's state that concerns an answer, with its defaults.
STATE: dict[str, Any] = {
    "mode": "instruct",
    "stream": True,
    "max_new_tokens": 24,
    "seed": -1,
    "do_sample": True,
    "temperature": 0,
    "top_p": 1,
    "top_k": 0,
    "min_p": 0,
    "typical_p": 1,
    "dry_multiplier": 0,
    "dry_allowed_length": 2,
    "dry_base": 1.75,
    "repetition_penalty": 1,
    "repetition_penalty_range": 1024,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "mirostat_mode": 0,
    "mirostat_tau": 5,
    "mirostat_eta": 0.1,
    "grammar_string": "",
    "instruction_template_str": "### Instruction:\n{{ messages[-1]['content'] }}\n### Response:\n",
}


class Control:
    """A control of gradio: its value, and who hears when it changes."""

    def __init__(self, *where: Any, value: Any = None, **how: Any) -> None:
        self.where, self.value, self.how = where, value, how
        self.heard: list[Callable[[Any], object]] = []

    def change(self, hear: Callable[[Any], object], inputs: Control, outputs: None) -> None:
        """gradio's: a function, the controls whose values it gets, those that take what it gives."""
        assert inputs is self
        assert outputs is None
        inspect.signature(hear).bind(None)  # gradio warns unless it can be called with as many values as there are
        self.heard.append(hear)

    def moved(self, value: Any) -> None:
        """Move it as a user does."""
        self.value = value
        for hear in self.heard:
            assert hear(value) is None


class Textgen:
    """A host with one extension in it.

    Attributes:
        script: the extension's module.
        controls: what its ``ui`` made, by their labels.
        shared: what extensions import from ``modules``.
    """

    def __init__(self, script: Path, settings: Mapping[str, Any], patch: pytest.MonkeyPatch) -> None:
        self.controls: dict[str, Control] = {}
        self.shared = types.SimpleNamespace(bos_token="<s>", eos_token="</s>")
        self._install(patch)
        spec = importlib.util.spec_from_file_location("user_ext_eftlite", script)
        assert spec
        assert spec.loader
        self.script: Any = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, self.script)
        spec.loader.exec_module(self.script)
        for name in self.script.params:
            self.script.params[name] = settings.get(f"eftlite-{name}", self.script.params[name])
        self.script.ui()

    def _install(self, patch: pytest.MonkeyPatch) -> None:
        def control(*where: Any, label: str, **how: Any) -> Control:
            self.controls[label] = Control(*where, **how)
            return self.controls[label]

        gradio: Any = types.ModuleType("gradio")
        gradio.Radio = gradio.Slider = gradio.Textbox = control
        gradio.Accordion = lambda label, open=True: nullcontext()  # noqa: A006  gradio's name
        modules: Any = types.ModuleType("modules")
        modules.shared = self.shared
        patch.setitem(sys.modules, "gradio", gradio)
        patch.setitem(sys.modules, "modules", modules)

    def chat(self, messages: Sequence[Mapping[str, str]], stop: Sequence[str] = (), **changes: Any) -> Iterator[str]:
        """A conversation in instruct mode: the reply as far as it is known, again and again."""
        state = self.script.state_modifier({**STATE, **changes})
        template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
            state["instruction_template_str"]
        )
        tokens = {"bos_token": self.shared.bos_token, "eos_token": self.shared.eos_token}
        prompt = template.render(messages=messages, add_generation_prompt=True, **tokens)
        yield from self.complete(prompt, stop, is_chat=True, **{**state, "stream": True})

    def complete(self, prompt: str, stop: Sequence[str] = (), is_chat: bool = False, **changes: Any) -> Iterator[str]:
        """A prompt as it stands, as in the notebook."""
        state = {**STATE, **changes}
        for reply in self.script.custom_generate_reply(prompt, prompt, state, list(stop), is_chat=is_chat):
            ends = [reply.find(text) for text in stop if text in reply]
            yield reply[: min(ends)] if ends else reply
            if ends:
                return
