"""The three-model step in Hugging Face transformers, as proxy-tuning's code does it; runs alone, in another Python.

    python with_transformers.py '{"base": {…}, "small": {…}, "n_vocab": 32000, "n_prompt": 64, …}'

Random weights in bfloat16 on the CPU. Prints one line of JSON when it is ready; then, for each number of tokens read
from stdin, the seconds that one token took. Knows nothing of eftlite: it has torch and transformers only.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM


def model(shape: dict[str, Any], n_vocab: int) -> LlamaForCausalLM:
    """A model of this shape with random weights."""
    config = LlamaConfig(
        vocab_size=n_vocab,
        hidden_size=shape["n_embd"],
        intermediate_size=shape["n_ff"],
        num_hidden_layers=shape["n_layers"],
        num_attention_heads=shape["n_heads"],
        num_key_value_heads=shape["n_kv_heads"],
        max_position_embeddings=8192,
        tie_word_embeddings=shape["tied"],
    )
    torch.set_default_dtype(torch.bfloat16)
    return LlamaForCausalLM(config).eval()


def sample(scores: torch.Tensor, temperature: float, top_k: int = 40, top_p: float = 0.95, min_p: float = 0.05) -> int:
    """A token (1, n_vocab) by llama.cpp's default filters; the likeliest at temperature 0."""
    if temperature == 0:
        return int(scores.argmax())
    best, ids = torch.topk(scores[0].float(), top_k)
    p = torch.softmax(best, -1)
    keep = (torch.cumsum(p, -1) - p < top_p) & (p >= min_p * p[0])
    p = torch.softmax(best[keep] / temperature, -1)
    return int(ids[keep][torch.multinomial(p, 1)])


class Ensemble:
    """Base, tuned and reference with a cache each."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        shapes = (wanted["base"], wanted["small"], wanted["small"])
        self.models = [model(shape, wanted["n_vocab"]) for shape in shapes]
        self.caches = [DynamicCache() for _ in self.models]
        self.n_prompt, self.temperature = wanted["n_prompt"], wanted["temperature"]
        self.step(list(range(self.n_prompt)))

    def step(self, ids: list[int]) -> int:
        """Evaluate, combine, draw."""
        tokens = torch.tensor([ids])  # (1, n)
        base, tuned, reference = (
            net(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1, :]
            for net, cache in zip(self.models, self.caches, strict=True)
        )  # (1, n_vocab) each
        return sample(base + tuned - reference, self.temperature)

    def seconds_per_token(self, n_tokens: int) -> float:
        """Decode after the prompt, which stays cached."""
        for cache in self.caches:
            beyond = cache.get_seq_length() - self.n_prompt
            if beyond:
                cache.crop(-beyond)
        token = 1
        began = time.perf_counter()
        for _ in range(n_tokens):
            token = self.step([token])
        return (time.perf_counter() - began) / n_tokens


def main() -> None:
    """Read what is wanted, build, and serve rounds."""
    wanted = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(wanted["n_threads"])
    with torch.inference_mode():
        ensemble = Ensemble(wanted)
        print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}), flush=True)
        for line in sys.stdin:
            print(ensemble.seconds_per_token(int(line)), flush=True)


if __name__ == "__main__":
    main()
