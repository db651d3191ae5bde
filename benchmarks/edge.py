"""What families of published models need on small machines: the table of docs/edge.md, computed from shapes alone.

Nothing is loaded, downloaded or measured here; how near such estimates are to measured memory is
benchmarks/memory_estimates.py's business. `python -m benchmarks.edge` writes the table into the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from eftlite.available import Available
from eftlite.gguf import Header
from eftlite.gguf_types import ArrayInfo, TensorInfo, Value
from eftlite.placement import Placement, place
from eftlite.settings import ModelSettings
from eftlite.shapes import SHAPES, Shape, tensors

PAGE = Path(__file__).resolve().parents[1] / "docs" / "edge.md"
BEGIN = "<!-- table: written by benchmarks/edge.py -->\n"
END = "<!-- end of table -->\n"
HEAD = "| machine | preset | base | small ones | 4096, f16 | 4096, q8_0 | 16384, q8_0 | chosen by itself |\n"
GIB = 1 << 30
# What is left of a machine's memory for this, when the system and a browser have taken theirs: an assumption.
FREE_GB = {"4 GB": 3.0, "8 GB": 6.0, "16 GB": 12.0, "24 GB": 20.0}
# As the publishers' config.json files give them; biases and norms count for nothing here.
MORE = (
    Shape("q0.5b", "Qwen2.5-0.5B", 896, 24, 14, 2, 4864, 151936, tied=True),
    Shape("q1.5b", "Qwen2.5-1.5B", 1536, 28, 12, 2, 8960, 151936, tied=True),
    Shape("q3b", "Qwen2.5-3B", 2048, 36, 16, 2, 11008, 151936, tied=True),
    Shape("q7b", "Qwen2.5-7B", 3584, 28, 28, 4, 18944, 152064, tied=False),
    Shape("q14b", "Qwen2.5-14B", 5120, 48, 40, 8, 13824, 152064, tied=False),
    Shape("l1b", "Llama-3.2-1B", 2048, 16, 32, 8, 8192, 128256, tied=True),
)
KNOWN: Mapping[str, Shape] = {**SHAPES, **{shape.name: shape for shape in MORE}}
COLUMNS = ((4096, "f16"), (4096, "q8_0"), (16384, "q8_0"))


@dataclass(frozen=True)
class Recipe:
    """A preset for a machine, with the shapes and types of its base and of its small two."""

    machine: str
    preset: str
    base: str
    base_type: str
    small: str
    small_type: str = "q8_0"


RECIPES = (
    Recipe("4 GB", "smollm2-360m", "360m", "q8_0", "135m"),
    Recipe("4 GB", "qwen2.5-1.5b", "q1.5b", "q4_k_m", "q0.5b"),
    Recipe("4 GB", "smollm2-1.7b", "1.7b", "q4_k_m", "360m"),
    Recipe("8 GB", "qwen2.5-3b", "q3b", "q4_k_m", "q0.5b"),
    Recipe("8 GB", "qwen2.5-3b:Q8_0", "q3b", "q8_0", "q0.5b"),
    Recipe("8 GB", "llama-3.2-3b", "3b", "q4_k_m", "l1b"),
    Recipe("16 GB", "llama-3.1-8b", "8b", "q4_k_m", "l1b"),
    Recipe("16 GB", "qwen2.5-7b", "q7b", "q4_k_m", "q1.5b"),
    Recipe("16 GB", "llama-3.1-8b:Q6_K", "8b", "q6_k", "l1b"),
    Recipe("24 GB", "qwen2.5-14b", "q14b", "q4_k_m", "q1.5b"),
)


def header(shape: Shape, quant: str) -> Header:
    """The header that a file of this shape and type has, without the file."""
    described, offset = [], 0
    for one in tensors(shape, quant):
        size = (one.n_columns,) if one.type == "F32" else (one.n_columns, one.n_rows)
        described.append(TensorInfo(one.name, size, one.type, offset, one.n_bytes))
        offset += one.n_bytes
    metadata: dict[str, Value] = {
        "llama.attention.head_count": shape.n_heads,
        "llama.attention.head_count_kv": shape.n_kv_heads,
        "llama.feed_forward_length": shape.n_ff,
        "tokenizer.ggml.merges": ArrayInfo("string", shape.n_vocab, 0),  # about one for each token
    }
    return Header(
        path=Path(shape.name),
        version=3,
        architecture="llama",
        name=shape.like,
        metadata=metadata,
        tensors=tuple(described),
        n_params=sum(one.n_elements for one in described),
        n_bytes=offset,
        file_bytes=offset,
        quantization=quant.upper(),
        n_ctx_train=1 << 17,
        n_vocab=shape.n_vocab,
        n_layers=shape.n_layers,
        n_embd=shape.n_embd,
        chat_template=None,
        split=None,
    )


def placed(recipe: Recipe, n_ctx: int | None, kind: str | None) -> Placement:
    """The recipe on its machine, with a context and a type of the caches or with both left open."""
    base, small = header(KNOWN[recipe.base], recipe.base_type), header(KNOWN[recipe.small], recipe.small_type)
    headers = {"base": base, "tuned": small, "reference": replace(small, path=Path("reference"))}
    settings = dict.fromkeys(headers, ModelSettings(n_gpu_layers=0, type_k=kind, type_v=kind))
    sizes = {name: one.file_bytes for name, one in headers.items()}
    return place(headers, sizes, settings, n_ctx, 1, (), Available(FREE_GB[recipe.machine] * 1e9))


def rows() -> Iterator[str]:
    """Lines of the table."""
    for recipe in RECIPES:
        base, small, own = KNOWN[recipe.base], KNOWN[recipe.small], placed(recipe, None, None)
        cells = [recipe.machine, f"`{recipe.preset}`", f"{base.like} {recipe.base_type.upper()}"]
        cells += [f"2 × {small.like} {recipe.small_type.upper()}"]
        cells += [f"{placed(recipe, n_ctx, kind).memory / GIB:.1f} GiB" for n_ctx, kind in COLUMNS]
        cells += ["does not fit" if own.lack else f"{own.n_ctx}, {own.settings['base'].type_k}"]
        yield f"| {' | '.join(cells)} |\n"


def render(page: str) -> str:
    """The page with its table renewed."""
    head, found, rest = page.partition(BEGIN)
    _, ended, tail = rest.partition(END)
    if not (found and ended):
        raise SystemExit(f"{PAGE.name} has lost its markers")
    return f"{head}{BEGIN}\n{HEAD}|---|---|---|---|---:|---:|---:|---|\n{''.join(rows())}\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
