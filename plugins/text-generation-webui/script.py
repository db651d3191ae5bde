"""An extension of text-generation-webui: a running eftlite server answers in place of a loaded model.

textgen keeps what is its own: modes, characters, history, samplers, stopping strings. In the instruct modes it renders
the conversation by the tuned model's template, which the server tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr
from modules import shared
from openai import APIConnectionError, OpenAI, OpenAIError

WHO = {"EFT": "", "base alone": ":base", "tuned alone": ":tuned"}
KNOBS = ("alpha", "beta", "conservative_p")
PROPS_S = 3.0  # textgen waits for it before every answer
MAX_STOPS = 16  # the server's

# textgen lays what settings.yaml says under "eftlite-NAME" over these. A knob that is None stays as the server has it.
params: dict[str, Any] = {
    "display_name": "EFT",
    "is_tab": False,
    "base_url": "http://127.0.0.1:8484",
    "api_key": "",
    "who": "EFT",
    **dict.fromkeys(KNOBS),
}

# The server's names by textgen's.
SAMPLERS = {
    **{name: name for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "mirostat_tau", "mirostat_eta")},
    **{name: name for name in ("frequency_penalty", "presence_penalty")},
    **{name: name for name in ("dry_multiplier", "dry_base", "dry_allowed_length")},
    "repetition_penalty": "repeat_penalty",
    "repetition_penalty_range": "repeat_last_n",
    "mirostat_mode": "mirostat",
    "grammar_string": "grammar",
}


def state_modifier(state: dict[str, Any]) -> dict[str, Any]:
    """Have conversations rendered by the tuned model's template; by the user's while the server does not answer."""
    try:
        with _client() as client:
            props = _props(client)
    except OpenAIError:
        return state  # the reply will say what is wrong
    shared.bos_token, shared.eos_token = props["bos_token"], props["eos_token"]
    return {**state, "instruction_template_str": props["chat_template"]}


def custom_generate_reply(
    question: str,
    original_question: str,
    state: Mapping[str, Any],
    stopping_strings: Sequence[str] | None = None,
    is_chat: bool = False,
) -> Iterator[str]:
    """Answer a rendered prompt; each text holds the one before it, as textgen expects."""
    del original_question, is_chat
    reply = ""
    if params["who"] not in WHO:
        yield f"[eftlite: who: expected {', '.join(WHO)}, got {params['who']!r}; look into settings.yaml]"
        return
    try:
        with _client() as client:
            stream = client.completions.create(
                model=_props(client)["model_alias"] + WHO[params["who"]],
                prompt=question,
                stream=True,
                extra_body=request_fields(state, stopping_strings or ()),
            )
            for chunk in stream:
                reply += chunk.choices[0].text
                yield reply
    except OpenAIError as error:
        yield f"{reply}\n\n[eftlite: {_said(error)}]".strip()


def request_fields(state: Mapping[str, Any], stopping_strings: Sequence[str]) -> dict[str, Any]:
    """textgen's settings as the server's fields."""
    fields = {ours: state[theirs] for theirs, ours in SAMPLERS.items() if theirs in state}
    fields["max_tokens"] = state["max_new_tokens"]
    fields["stop"] = list(stopping_strings)[:MAX_STOPS]  # textgen looks for all of them itself as well
    if not state.get("do_sample", True):
        fields["temperature"] = 0
    if state.get("seed", -1) >= 0:  # -1 is any
        fields["seed"] = state["seed"]
    if params["who"] == "EFT":  # a member alone has no knobs
        fields["eft"] = {knob: params[knob] for knob in KNOBS if params[knob] is not None}
    return fields


def ui() -> None:
    """The controls below the chat; they act from the next answer on."""
    knobs = _shown_knobs()
    with gr.Accordion("Emulated fine-tuning", open=True):
        controls = {
            "who": gr.Radio(list(WHO), value=params["who"], label="Who answers"),
            "alpha": gr.Slider(
                0, 2, value=knobs["alpha"], step=0.05, label="alpha", info="The tuned model's behaviour"
            ),
            "beta": gr.Slider(0, 2, value=knobs["beta"], step=0.05, label="beta", info="The base's knowledge"),
            "conservative_p": gr.Slider(
                0, 1, value=knobs["conservative_p"], step=0.05, label="conservative_p", info="0 is off"
            ),
            "base_url": gr.Textbox(value=params["base_url"], label="eftlite's server"),
        }
    for name, control in controls.items():
        control.change(partial(params.__setitem__, name), control, None)


def _shown_knobs() -> dict[str, float]:
    """What the sliders begin with: the settings, then the server's own, then the paper's."""
    shown = {"alpha": 1.0, "beta": 1.0, "conservative_p": 0.0}
    try:
        with _client() as client:
            served = _props(client)["eft"]["knobs"]
    except OpenAIError:
        served = {}
    if served:
        shown = {
            "alpha": next(iter(served["alphas"]), 1.0),
            "beta": served["beta"],
            "conservative_p": served["conservative_p"] or 0.0,
        }
    return {knob: shown[knob] if params[knob] is None else params[knob] for knob in KNOBS}


def _server() -> str:
    return str(params["base_url"]).strip().rstrip("/").removesuffix("/v1")


def _client() -> OpenAI:
    return OpenAI(base_url=f"{_server()}/v1", api_key=params["api_key"] or "none", max_retries=0)


def _props(client: OpenAI) -> dict[str, Any]:
    """What the server has loaded, as llama-server tells it."""
    return client.get(f"{_server()}/props", cast_to=dict[str, Any], options={"timeout": PROPS_S})


def _said(error: OpenAIError) -> str:
    """The server's own words, where it had any."""
    if isinstance(error, APIConnectionError):
        return f"no answer from {error.request.url}"
    body = getattr(error, "body", None)
    return str(body["message"]) if isinstance(body, dict) and body.get("message") else str(error)
