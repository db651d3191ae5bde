"""What a header must say for llama.cpp to load and run the model without ending the process.

llama.cpp answers most nonsense with an error, but some with ``abort()``, an exception through C, or a write out of
bounds; each rule here is one of those, or names early what llama.cpp would refuse in darker words (its sources:
llama-model.cpp, llama-vocab.cpp, src/models/, ggml-cpu). Knows metadata and tensor descriptions, never the file.

Not guaranteed: the weights' numbers are not looked at, and rarer architectures have conditions that are not here.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence

from eftlite.gguf_header import TOKENS
from eftlite.gguf_types import MAX_TEXT_BYTES, MAX_VOCABULARY, NOT_WEIGHTS, ArrayInfo, TensorInfo, Value, bad, shown

MAX_LAYERS = 512
MAX_EXPERTS = 1_024
_RECURRENT = ("mamba", "rwkv", "arwkv")
# These assert that a head's key, value and rotary lengths are one number (src/models/*.cpp).
_EQUAL_HEADS = frozenset(
    "llama llama4 mistral3 qwen2 qwen2moe qwen3 qwen3moe granite internlm2 olmo olmo2 olmoe smollm3 starcoder2 falcon "
    "exaone nemotron seed_oss xverse orion baichuan deepseek arcee ernie4_5".split()
)
_SECTIONED = frozenset({"qwen2vl", "qwen3vl", "qwen3vlmoe", "paddleocr"})
_ROPE_SCALING = ("none", "linear", "yarn", "longrope")
_OTHER_FILES = {
    "adapter": "a LoRA adapter",
    "imatrix": "an importance matrix",
    "mmproj": "a projector of images or sound",
}
# What llama.cpp takes for (bos, eos) when the file says nothing, and whether it puts bos in front by itself.
_DEFAULT_IDS: dict[str, tuple[int | None, int | None, bool]] = {
    "llama": (1, 2, True),
    "bert": (101, None, True),
    "gpt2": (11, 11, False),
    "t5": (None, 1, False),
    "plamo2": (1, 2, False),
}


def check_rules(
    metadata: Mapping[str, Value], tensors: Sequence[TensorInfo], token_hashes: array[int], vocabulary_only: bool
) -> None:
    """Raise ModelFileError at the first thing that no loadable model says.

    Args:
        tensors: of all parts; may be empty when ``vocabulary_only``.
        token_hashes: hashes of the token texts, in order.
    """
    keys = _Keys(metadata, _architecture(metadata), vocabulary_only)
    _check_shape(keys)
    _check_experts(keys)
    _check_numbers(keys)
    _check_tensors(tensors)
    _check_vocabulary(keys, tensors, token_hashes)
    _check_special_ids(keys, len(token_hashes))
    _check_templates(metadata)


class _Keys:
    """The metadata under one architecture's prefix."""

    def __init__(self, metadata: Mapping[str, Value], architecture: str, vocabulary_only: bool) -> None:
        self.metadata = metadata
        self.architecture = architecture
        self.vocabulary_only = vocabulary_only

    def number(self, name: str, low: int, high: int, required: bool = False) -> int | None:
        """An integer under the architecture's prefix, or None where it may be missing."""
        key = f"{self.architecture}.{name}"
        if key not in self.metadata and not (required and not self.vocabulary_only):
            return None
        return _integer(key, self.metadata.get(key), low, high)

    def numbers(self, name: str, low: int, high: int, n_layers: int) -> tuple[int, ...]:
        """An integer, or one for each layer (0 where the layer has none); empty when it is missing."""
        key = f"{self.architecture}.{name}"
        value = self.metadata.get(key)
        if not isinstance(value, tuple):
            one = self.number(name, low, high)
            return () if one is None else (one,)
        if n_layers and len(value) != n_layers:
            raise bad(f"expected {shown(key)} for each of {n_layers} layers, got {len(value)} values")
        return tuple(_integer(key, one, 0, high) for one in value)


def _integer(key: str, value: object, low: int, high: int) -> int:
    """The value when it is an integer from low to high."""
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise bad(f"expected {shown(key)} to be an integer from {low:,} to {high:,}, got {_got(value)}")


def _got(value: object) -> str:
    """A value of the wrong kind, for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"'{shown(value)}'"
    return str(value) if isinstance(value, int | float) else "an array"


def _architecture(metadata: Mapping[str, Value]) -> str:
    """The architecture's name; files that are no models are refused by their kind."""
    kind = metadata.get("general.type", "model")
    if isinstance(kind, str) and kind in _OTHER_FILES:
        raise bad(f"expected a model, got {_OTHER_FILES[kind]}", "Give the file of the model itself")
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or not 0 < len(name) <= 64 or not name.isascii() or not name.isprintable():
        raise bad(f"expected general.architecture to name the architecture, got {_got(name)}")
    if name == "clip":
        raise bad(f"expected a model, got {_OTHER_FILES['mmproj']}", "Give the file of the model itself")
    return name


def _check_shape(keys: _Keys) -> None:
    """Layers, lengths and heads within llama.cpp's tables, and heads that fit each other."""
    n_layers = keys.number("block_count", 1, MAX_LAYERS, required=True) or 0
    n_embd = keys.number("embedding_length", 1, 1 << 20, required=True) or 0
    keys.number("context_length", 1, 1 << 31, required=True)
    keys.number("vocab_size", 1, MAX_VOCABULARY)
    if keys.metadata.get(f"{keys.architecture}.attention.causal") is False:
        hint = "It makes embeddings, perhaps; give a model that generates"
        raise bad("expected a model that predicts the next token, got one that sees the whole text", hint)
    recurrent = keys.architecture.startswith(_RECURRENT)
    low = 0 if recurrent else 1
    keys.numbers("feed_forward_length", 0 if keys.number("expert_count", 0, MAX_EXPERTS) else low, 1 << 24, n_layers)
    heads = keys.numbers("attention.head_count", low, 1 << 16, n_layers)
    shared = keys.numbers("attention.head_count_kv", 0, 1 << 16, n_layers)
    for i in range(max(len(heads), len(shared)) if heads and shared else 0):
        n_heads, n_shared = heads[min(i, len(heads) - 1)], shared[min(i, len(shared) - 1)]
        if n_shared and n_heads % n_shared:
            raise bad(f"expected attention.head_count to be a multiple of head_count_kv, got {n_heads} and {n_shared}")
    nextn = keys.number("nextn_predict_layers", 0, MAX_LAYERS) or 0
    if nextn and nextn >= n_layers:
        raise bad(f"expected fewer than {n_layers} nextn_predict_layers, got {nextn}")
    if heads and heads[0]:
        _check_head_lengths(keys, n_embd // heads[0])


def _check_head_lengths(keys: _Keys, default: int) -> None:
    """Lengths of one head's keys, values and rotation."""
    key = keys.number("attention.key_length", 1, 1 << 16) or default
    value = keys.number("attention.value_length", 1, 1 << 16) or default
    rotary = keys.number("rope.dimension_count", 0, 1 << 16)
    if rotary is not None and (rotary % 2 or rotary > key):
        raise bad(f"expected rope.dimension_count to be even and at most {key}, got {rotary}")
    if keys.architecture in _EQUAL_HEADS and not key == value == (key if rotary is None else rotary):
        got = f"{key}, {value} and {key if rotary is None else rotary}"
        raise bad(f"expected one length of a head's keys, values and rotation, got {got}")
    if keys.architecture in _EQUAL_HEADS and key % 2:
        raise bad(f"expected an even length of a head, got {key}")


def _check_experts(keys: _Keys) -> None:
    """The relations between experts that llama.cpp asserts."""
    n_layers = keys.number("block_count", 1, MAX_LAYERS) or 0
    mixture = "moe" in keys.architecture or keys.architecture == "smallthinker"
    n_experts = keys.number("expert_count", int(mixture), MAX_EXPERTS, required=mixture) or 0
    used = max(keys.numbers("expert_used_count", 0, MAX_EXPERTS, n_layers), default=0)
    if keys.architecture.startswith("hunyuan") and n_experts <= 1:
        n_experts = used = 0  # as llama.cpp does: these files count one expert where there is none
    if used > n_experts or (n_experts and not used):
        raise bad(f"expected expert_used_count from {min(n_experts, 1)} to {n_experts}, got {used}")
    groups = keys.number("expert_group_count", 0, MAX_EXPERTS) or 0
    used_groups = keys.number("expert_group_used_count", 0, MAX_EXPERTS) or 0
    if groups > 1 and (n_experts % groups or not 0 < used_groups < groups):
        raise bad(f"expected expert groups that divide {n_experts} experts, got {used_groups} used of {groups}")
    if groups and groups >= n_experts:
        raise bad(f"expected fewer expert groups than {n_experts} experts, got {groups}")


def _check_numbers(keys: _Keys) -> None:
    """Fractions that are numbers, epsilons that a norm can add, rotations that exist."""
    for key, value in keys.metadata.items():
        if not isinstance(value, float) or not key.startswith(keys.architecture + "."):
            continue
        if math.isnan(value) or (key.endswith("epsilon") and not 0 <= value <= 1):
            want = "a number from 0 to 1" if key.endswith("epsilon") else "a number"
            raise bad(f"expected {shown(key)} to be {want}, got {value:g}")
    scaling = keys.metadata.get(f"{keys.architecture}.rope.scaling.type", "none")
    if scaling not in _ROPE_SCALING:
        raise bad(f"expected rope.scaling.type to be one of {', '.join(_ROPE_SCALING)}, got {_got(scaling)}")
    sections = keys.metadata.get(f"{keys.architecture}.rope.dimension_sections")
    if (
        keys.architecture in _SECTIONED
        and not keys.vocabulary_only
        and not (isinstance(sections, tuple) and any(sections))
    ):
        raise bad("expected rope.dimension_sections of which one is not 0, got none")


def _check_tensors(tensors: Sequence[TensorInfo]) -> None:
    """Types with which the CPU can compute: it has no code for the others and calls it all the same."""
    for one in tensors:
        vector = one.name.endswith(("norm.weight", ".bias")) or one.name.startswith("rope_f")
        if vector and one.type != "F32":
            raise bad(f"expected {one.name} in F32, got {one.type}")
        if one.type in NOT_WEIGHTS and len(one.shape) > 1 and one.name.endswith(".weight"):
            raise bad(f"expected weights in {one.name}, got the type {one.type}")


def _check_vocabulary(keys: _Keys, tensors: Sequence[TensorInfo], token_hashes: array[int]) -> None:
    """Tokens that exist, as many as the model has rows, with scores, types and merges of the right kind."""
    metadata = keys.metadata
    model = metadata.get("tokenizer.ggml.model")
    if not isinstance(model, str) or model in ("", "none", "no_vocab") or not model.isprintable():
        raise bad(f"expected a vocabulary (tokenizer.ggml.model), got {_got(model)}")
    tokens = _array(metadata, TOKENS, ("string",))
    if tokens is None or not 1 <= tokens.length <= MAX_VOCABULARY:
        got = "none" if tokens is None else f"{tokens.length:,}"
        raise bad(f"expected {TOKENS} to hold 1 to {MAX_VOCABULARY:,} tokens, got {got}")
    for name, types in (("scores", ("float32", "int32")), ("token_type", ("int32",))):
        more = _array(metadata, f"tokenizer.ggml.{name}", types)
        if more is not None and more.length != tokens.length:
            raise bad(f"expected tokenizer.ggml.{name} of {tokens.length:,} tokens, got {more.length:,}")
    merges = _array(metadata, "tokenizer.ggml.merges", ("string",))
    if model == "gpt2" and merges is None and metadata.get("tokenizer.ggml.pre") != "kimi-k2":
        raise bad("expected tokenizer.ggml.merges for a gpt2 vocabulary, got none")
    rows = next((one.shape[1] for one in tensors if one.name == "token_embd.weight" and len(one.shape) > 1), None)
    if rows is not None and rows != tokens.length:
        raise bad(f"expected one row of token_embd.weight for each of {tokens.length:,} tokens, got {rows:,}")
    # Resegmenting unknown characters throws through C when a byte has no token.
    if model == "llama":
        known = set(token_hashes)
        lacking = [b for b in range(256) if hash(b"<0x%02X>" % b) not in known and hash(bytes([b])) not in known]
        if lacking:
            raise bad(f"expected a token for each byte in a llama vocabulary, got none for 0x{lacking[0]:02X}")


def _array(metadata: Mapping[str, Value], key: str, types: tuple[str, ...]) -> ArrayInfo | None:
    """The description of an array, None when there is no such key."""
    value = metadata.get(key)
    if value is None or (isinstance(value, ArrayInfo) and value.type in types):
        return value
    got = f"an array of {value.type}" if isinstance(value, ArrayInfo) else "a single value"
    raise bad(f"expected {shown(key)} to be an array of {' or '.join(types)}, got {got}")


def _check_special_ids(keys: _Keys, n_vocab: int) -> None:
    """Ids that end or begin a text lie within the vocabulary; those that are put in by themselves exist.

    Other special ids are not looked at: llama.cpp ignores those outside, and many models have a padding id that is.
    """
    metadata = keys.metadata
    for name in ("bos", "eos", "eot", "eom"):
        key = f"tokenizer.ggml.{name}_token_id"
        if key in metadata:
            _integer(key, metadata[key], 0, n_vocab - 1)
    model = metadata.get("tokenizer.ggml.model")
    bos, eos, adds_bos = _DEFAULT_IDS.get(str(model), (None, None, False))
    if str(metadata.get("tokenizer.ggml.pre", "")).startswith(("chatglm", "glm")):
        bos = None
    for name, default, adds in (("bos", bos, adds_bos), ("eos", eos, False)):
        present = f"tokenizer.ggml.{name}_token_id" in metadata or (default is not None and default < n_vocab)
        if metadata.get(f"tokenizer.ggml.add_{name}_token", adds) is True and not present:
            raise bad(f"expected tokenizer.ggml.{name}_token_id, because add_{name}_token is set, got none")


def _check_templates(metadata: Mapping[str, Value]) -> None:
    """Chat templates of a size that can be rendered within bounds."""
    for key, value in metadata.items():
        if key.startswith("tokenizer.chat_template") and not isinstance(value, tuple):
            n = value.length if isinstance(value, ArrayInfo) else len(value) if isinstance(value, str) else 0
            if n > MAX_TEXT_BYTES and (not isinstance(value, ArrayInfo) or value.type == "text"):
                raise bad(f"expected {shown(key)} of at most {MAX_TEXT_BYTES:,} bytes, got {n:,}")
