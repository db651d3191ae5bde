"""Frozen dataclasses with every default, each value checked once, when it is made.

Knows numbers and words, never models: no file is opened here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from eftlite.errors import InputError

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
RULES = ("gumbel", "block", "token")
MAX_SEED = 2**64 - 1


def _check_number(name: str, value: float, low: float, high: float) -> None:
    """Raise InputError unless ``low <= value <= high`` and the value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{name}: expected a number from {low:g} to {high:g}, got {value!r}")
    if not low <= value <= high:
        raise InputError(f"{name}: expected a number from {low:g} to {high:g}, got {value:g}")


def _check_integer(name: str, value: int, low: int, high: int) -> None:
    """Raise InputError unless value is an integer with ``low <= value <= high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name}: expected an integer from {low} to {high}, got {value!r}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise InputError unless value is one of choices."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def _check_flag(name: str, value: bool | None, optional: bool = False) -> None:
    """Raise InputError unless value is True or False, or None where that is ``optional``."""
    if not isinstance(value, bool) and not (optional and value is None):
        raise InputError(f"{name}: expected True or False{' or None' * optional}, got {value!r}")


def _check_text(name: str, value: str) -> None:
    """Raise InputError unless value is a string."""
    if not isinstance(value, str):
        raise InputError(f"{name}: expected a string, got {value!r}")


@dataclass(frozen=True)
class ModelSettings:
    """How one model is loaded and where it runs; names as in llama.cpp.

    Attributes:
        n_gpu_layers: layers on the GPU; -1 means all, None as many as fit beside the other members.
        devices: llama.cpp's names of those that may be used, e.g. "CUDA0" or "RPC0"; None means all.
        n_threads: threads for single tokens; 0 means the physical cores, or one for a very small model.
        n_threads_batch: threads for batches; 0 means the same as n_threads.
        n_batch: tokens handed to one ``llama_decode``.
        n_ubatch: tokens computed at once inside llama.cpp.
        type_k, type_v: types of the KV cache; a quantized type_v needs flash attention. None means f16, or q8_0 where
            memory is short.
        flash_attn: None lets llama.cpp decide.
        swa_full: keep whole caches for sliding-window models, without which they cannot rewind.
        use_extra_bufts: let llama.cpp repack weights for the processor (AMX, repacked blocks); None means wherever
            that works, see amx.py.
        n_rs_seq: snapshots kept by recurrent and hybrid models, so that they can rewind that many tokens; others
            ignore it.
    """

    n_gpu_layers: int | None = None
    devices: tuple[str, ...] | None = None
    main_gpu: int = 0
    tensor_split: tuple[float, ...] | None = None
    split_mode: str = "layer"
    offload_kqv: bool = True
    flash_attn: bool | None = None
    type_k: str | None = None
    type_v: str | None = None
    n_threads: int = 0
    n_threads_batch: int = 0
    n_batch: int = 512
    n_ubatch: int = 512
    use_mmap: bool = True
    use_mlock: bool = False
    swa_full: bool = True
    use_extra_bufts: bool | None = None
    n_rs_seq: int = 16

    def __post_init__(self) -> None:
        if self.n_gpu_layers is not None:
            _check_integer("n_gpu_layers", self.n_gpu_layers, -1, 1_000_000)
        if self.devices is not None:
            if isinstance(self.devices, str) or not isinstance(self.devices, Sequence):
                raise InputError(f"devices: expected names of devices, got {self.devices!r}")
            for device in self.devices:
                _check_text("devices", device)
        _check_integer("main_gpu", self.main_gpu, 0, 1024)
        if self.tensor_split is not None:
            if isinstance(self.tensor_split, str) or not isinstance(self.tensor_split, Sequence):
                raise InputError(f"tensor_split: expected a share for each device, got {self.tensor_split!r}")
            for share in self.tensor_split:
                _check_number("tensor_split", share, 0.0, 1e6)
        for name in ("offload_kqv", "use_mmap", "use_mlock", "swa_full"):
            _check_flag(name, getattr(self, name))
        for name in ("flash_attn", "use_extra_bufts"):
            _check_flag(name, getattr(self, name), optional=True)
        _check_integer("n_threads", self.n_threads, 0, 512)
        _check_integer("n_threads_batch", self.n_threads_batch, 0, 512)
        _check_integer("n_batch", self.n_batch, 1, 1 << 20)
        _check_integer("n_ubatch", self.n_ubatch, 1, 1 << 20)
        _check_integer("n_rs_seq", self.n_rs_seq, 0, 64)
        _check_choice("split_mode", self.split_mode, ("none", "layer", "row"))
        for name in ("type_k", "type_v"):
            if getattr(self, name) is not None:
                _check_choice(name, getattr(self, name), KV_TYPES)


@dataclass(frozen=True)
class Delta:
    """One (tuned, reference) pair of model references with the strength it has by default.

    With an ``adapter`` the tuned model is the reference with this LoRA, and ``tuned`` names the reference's file.
    """

    name: str
    tuned: str
    reference: str
    alpha: float = 1.0
    adapter: str | None = None


@dataclass(frozen=True)
class Family:
    """The models that share one vocabulary: a base and its deltas, each named by a path or a hub reference.

    ``real`` is the large model fine-tuned for real, for comparison only; ``template`` replaces the tuned model's
    chat template; ``stop`` adds stop strings. ``adapter`` is a LoRA on the base. ``settings`` are fields of
    ``ModelSettings`` by member or role; ``rpc`` are other machines' workers, "host:port" each.
    """

    name: str
    base: str
    deltas: tuple[Delta, ...] = ()
    real: str | None = None
    template: str | None = None
    stop: tuple[str, ...] = ()
    adapter: str | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rpc: tuple[str, ...] = ()

    def renamed(self, names: Mapping[str, str]) -> Family:
        """The same family with other texts for some of its models and adapters: those that are keys of ``names``."""

        def new(text: str) -> str:
            return names.get(text, text)

        def optional(text: str | None) -> str | None:
            return None if text is None else new(text)

        deltas = tuple(
            replace(one, tuned=new(one.tuned), reference=new(one.reference), adapter=optional(one.adapter))
            for one in self.deltas
        )
        return replace(
            self, base=new(self.base), deltas=deltas, real=optional(self.real), adapter=optional(self.adapter)
        )


@dataclass(frozen=True)
class Knobs:
    """What can change between two tokens; nothing here touches a cache.

    Attributes:
        alphas: strength of each delta, in the family's order.
        beta: weight of the up-scaling delta ``log p_base - log p_reference``.
        conservative_p: outside the tuned model's top-p set the up-scaling weight is 1; None switches this off.
        control_tokens: treat control tokens in the same way (see composite.py).
        allow_negative: alpha < 0 reverses a tune, alignment included, and must be asked for.
        temperature: in place of the sampling's, which None leaves as it is.
    """

    alphas: tuple[float, ...] = (1.0,)
    beta: float = 1.0
    conservative_p: float | None = None
    control_tokens: bool = True
    allow_negative: bool = False
    temperature: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.alphas, str) or not isinstance(self.alphas, Sequence):
            raise InputError(f"alphas: expected a number for each delta, got {self.alphas!r}")
        _check_flag("control_tokens", self.control_tokens)
        _check_flag("allow_negative", self.allow_negative)
        for alpha in self.alphas:
            _check_number("alpha", alpha, -100.0, 100.0)
            if alpha < 0 and not self.allow_negative:
                raise InputError(
                    f"alpha: expected a number from 0 to 100, got {alpha:g}",
                    "A negative alpha reverses a tune, alignment included; ask for it with --allow-negative-alpha",
                )
        _check_number("beta", self.beta, 0.0, 100.0)
        if self.temperature is not None:
            _check_number("temperature", self.temperature, 0.0, 100.0)
        if self.conservative_p is not None:
            _check_number("conservative_p", self.conservative_p, 0.0, 1.0)

    @classmethod
    def alone(cls, mode: str, n_deltas: int) -> Knobs:
        """Knobs under which one member answers alone: "base", or the first delta's "tuned" or "reference"."""
        if mode == "base":
            return cls((0.0,) * n_deltas)
        if mode in ("tuned", "reference") and n_deltas:
            return cls((float(mode == "tuned"),) + (0.0,) * (n_deltas - 1), beta=0.0)
        raise InputError(f"mode: expected eft, base, tuned or reference, got {mode!r}")

    def with_alpha(self, index: int, alpha: float) -> Knobs:
        """The same knobs with one delta's strength changed."""
        return replace(self, alphas=self.alphas[:index] + (alpha,) + self.alphas[index + 1 :])


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from the composite; llama.cpp's samplers in llama-cpp-python's order and meaning.

    ``temperature == 0`` is greedy. ``seed`` None draws a fresh one. ``mirostat`` 1 or 2 replaces the filters and
    cannot be verified, so it switches speculation off.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    grammar: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, 100.0)
        _check_integer("top_k", self.top_k, -1, 1 << 30)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("typical_p", self.typical_p, 0.0, 1.0)
        _check_number("repeat_penalty", self.repeat_penalty, 0.01, 100.0)
        _check_number("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        _check_number("presence_penalty", self.presence_penalty, -100.0, 100.0)
        _check_integer("penalty_last_n", self.penalty_last_n, -1, 1 << 20)
        _check_number("dry_multiplier", self.dry_multiplier, 0.0, 100.0)
        _check_number("dry_base", self.dry_base, 0.0, 100.0)
        _check_integer("dry_allowed_length", self.dry_allowed_length, 0, 1 << 20)
        _check_integer("mirostat", self.mirostat, 0, 2)
        _check_number("mirostat_tau", self.mirostat_tau, 0.0, 100.0)
        _check_number("mirostat_eta", self.mirostat_eta, 0.0, 100.0)
        if not isinstance(self.logit_bias, Mapping):
            raise InputError(f"logit_bias: expected a bias for each token id, got {self.logit_bias!r}")
        for token_id, bias in self.logit_bias.items():
            _check_integer("logit_bias token id", token_id, 0, 1 << 24)
            if isinstance(bias, bool) or not isinstance(bias, int | float) or math.isnan(bias) or bias == math.inf:
                raise InputError(f"logit_bias of token {token_id}: expected a number or -inf, got {bias!r}")
        if self.grammar is not None:
            _check_text("grammar", self.grammar)
        if self.seed is not None:
            _check_integer("seed", self.seed, 0, MAX_SEED)


@dataclass(frozen=True)
class Speculation:
    """How drafts are made and verified.

    Attributes:
        enabled: False decodes plainly.
        drafter: "auto" (the tuned model of the strongest delta), "lookup", a member's or a plugin's name, or two of
            them: "lookup+auto".
        rule: "gumbel" (same seed, same text), "block" (fastest) or "token" (reference).
        n_draft: tokens to draft at a time; None lets the pace choose.
        max_draft: the most the pace may choose.
    """

    enabled: bool = True
    drafter: str = "auto"
    rule: str = "gumbel"
    n_draft: int | None = None
    max_draft: int = 16

    def __post_init__(self) -> None:
        _check_flag("enabled", self.enabled)
        _check_text("drafter", self.drafter)
        _check_choice("rule", self.rule, RULES)
        _check_integer("max_draft", self.max_draft, 1, 64)
        if self.n_draft is not None:
            _check_integer("n_draft", self.n_draft, 1, 64)


@dataclass(frozen=True)
class Limits:
    """Where an answer ends, whatever the model says.

    ``max_tokens`` None means up to the context; ``n_top`` asks for that many top candidates of each member per token.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n_top: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _check_integer("max_tokens", self.max_tokens, 0, 1 << 30)
        _check_integer("n_top", self.n_top, 0, 100)
        if isinstance(self.stop, str) or not isinstance(self.stop, Sequence):
            raise InputError(f"stop: expected a list of strings, got {self.stop!r}")
        for text in self.stop:
            _check_text("stop", text)
            if not text:
                raise InputError("stop: expected non-empty strings, got an empty one")


def from_options(cls: type[Any], options: Mapping[str, Any]) -> Any:
    """Make a settings object from options, leaving out those that are None so that defaults stand."""
    return cls(**{name: value for name, value in options.items() if value is not None})
