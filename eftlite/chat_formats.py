"""Chat formats: the templates of well-known models, for files that carry none and for families that name one.

As their publishers define them, for conversations without tools. Knows texts only.
"""

from __future__ import annotations


def _turns(turn: str, prompt: str) -> str:
    """A template that writes every message ``m`` alike."""
    return f"{{% for m in messages %}}{turn}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"


_CHATML_TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
BUILTIN: dict[str, str] = {
    "chatml": _turns(_CHATML_TURN, "<|im_start|>assistant\n"),
    "falcon": _turns("{{ m.role | capitalize }}: {{ m.content }}\n", "Assistant:"),
    "gemma": "{{ bos_token }}"
    + _turns(
        "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n",
        "<start_of_turn>model\n",
    ),
    "llama-2": "{% set ns = namespace(system='') %}"
    + _turns(
        "{% if m.role == 'system' %}{% set ns.system = '<<SYS>>\\n' + m.content + '\\n<</SYS>>\\n\\n' %}"
        "{% elif m.role == 'user' %}{{ bos_token }}[INST] {{ ns.system }}{{ m.content | trim }} [/INST]"
        "{% set ns.system = '' %}{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}",
        "",
    ),
    "llama-3": "{{ bos_token }}"
    + _turns(
        "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    # Qwen3's with enable_thinking=False: the thought is there, and empty.
    "qwen3": _turns(_CHATML_TURN, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    "zephyr": _turns("<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n", "<|assistant|>\n"),
}
