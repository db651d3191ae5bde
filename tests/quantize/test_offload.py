"""Where members go: what llama.cpp puts on a GPU for a number of layers, and small members first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eftlite.errors import InputError
from eftlite.gguf import check
from eftlite.inspection import cache_bytes
from eftlite_quantize.offload import Budget, Load, parse_size
from tests.tiny_gguf import write_model

SMALL = Load(embedding=10, layers=(20, 20), output=5, tied=False, cache_known=True)
LARGE = Load(embedding=100, layers=(50, 60, 70), output=40, tied=False, cache_known=True)


def test_a_file_taken_apart(tmp_path: Path) -> None:
    header = check(write_model(tmp_path / "m.gguf", seed=1, n_layers=3))
    load = Load.of(header, 100)
    cache = cache_bytes(header, 100)
    assert cache is not None
    assert load.total == header.n_bytes + cache
    sizes = {one.name: one.n_bytes for one in header.tensors}
    assert load.embedding == sizes["token_embd.weight"]
    assert load.output == sizes["output.weight"] + sizes["output_norm.weight"]
    assert load.layers[2] == sum(n for name, n in sizes.items() if name.startswith("blk.2.")) + cache // 3
    assert not load.tied
    assert load.cache_known


def test_a_tied_output_is_copied_to_the_gpu(tmp_path: Path) -> None:
    header = check(write_model(tmp_path / "m.gguf", seed=1))
    header = replace(header, tensors=tuple(one for one in header.tensors if one.name != "output.weight"))
    load = Load.of(header, 100)
    assert load.tied
    assert load.on_gpu[1] == load.output + load.embedding
    assert load.in_ram(1) == load.total - load.output


def test_a_cache_of_unknown_size(tmp_path: Path) -> None:
    header = check(write_model(tmp_path / "m.gguf", seed=1))
    metadata = {key: value for key, value in header.metadata.items() if "head_count" not in key}
    load = Load.of(replace(header, metadata=metadata), 100)
    assert not load.cache_known
    assert load.total == sum(one.n_bytes for one in header.tensors)


def test_layers_go_from_the_last_to_the_first_the_output_first() -> None:
    assert LARGE.on_gpu == (0, 40, 110, 170, 220)
    assert [LARGE.in_ram(n) for n in range(5)] == [320, 280, 210, 150, 100]


def test_small_members_come_first() -> None:
    loads = {"base": LARGE, "tuned": SMALL}
    assert Budget(vram=1000).place(loads).n_gpu_layers == {"base": 4, "tuned": 3}
    assert dict(Budget(ram=1000, vram=120).place(loads).n_gpu_layers) == {"base": 1, "tuned": 3}  # not base 2, tuned 1
    found = Budget(ram=1000, vram=160).place(loads)
    assert dict(found.n_gpu_layers) == {"base": 2, "tuned": 3}  # 45 + 110
    assert (found.vram, found.ram) == (155, 10 + 210)
    assert dict(Budget(ram=1000, vram=30).place(loads).n_gpu_layers) == {"base": 0, "tuned": 2}
    assert Budget(ram=1000).place(loads).n_gpu_layers == {}


@pytest.mark.parametrize(
    ("budget", "fits"),
    [
        (Budget(ram=375), True),
        (Budget(ram=374), False),
        (Budget(vram=265), True),
        (Budget(vram=264), False),
        (Budget(ram=110, vram=265), True),
        (Budget(ram=109, vram=265), False),
        (Budget(ram=220, vram=155), True),
        (Budget(ram=219, vram=155), False),
    ],
)
def test_what_fits(budget: Budget, fits: bool) -> None:
    loads = {"base": LARGE, "tuned": SMALL}
    assert budget.fits(loads, budget.place(loads)) == fits


def test_no_budget_is_refused() -> None:
    with pytest.raises(InputError, match="--ram"):
        Budget()


def test_what_would_be_enough_is_said() -> None:
    loads = {"base": LARGE, "tuned": SMALL}
    assert Budget(ram=100).too_small(loads).message == "--ram: expected at least 375 B, got 100 B"
    assert Budget(vram=100).too_small(loads).message == "--vram: expected at least 265 B, got 100 B"
    assert Budget(ram=100, vram=155).too_small(loads).message == "--ram: expected at least 220 B, got 100 B"


@pytest.mark.parametrize(("text", "n"), [("8G", 2**33), ("1.5MiB", 3 * 2**19), ("100", 100), ("2kb", 2048)])
def test_sizes(text: str, n: int) -> None:
    assert parse_size("--ram", text) == n


@pytest.mark.parametrize("text", ["", "G", "-1G", "nan", "inf", "8X"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(InputError, match="--vram"):
        parse_size("--vram", text)
