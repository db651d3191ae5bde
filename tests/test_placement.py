"""How families fit: made-up memory and made-up GPUs; what is chosen, what is refused, and with which words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from eftlite import gguf, llama, placement
from eftlite.available import Available
from eftlite.errors import MemoryLimitError
from eftlite.memory import CPU, Gpu, estimate
from eftlite.placement import GPU_MARGIN, MIN_N_CTX, Placement, check, local_gpus, place
from eftlite.settings import ModelSettings
from eftlite.shapes import SHAPES, Shape
from tests.dry_run import sparse_model

GIB = 1 << 30
PLENTY = Available(math.inf)
OPEN = ModelSettings(n_threads=1)


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, gguf.Header]:
    """A base of 8 B and small models of 1.7 B and 135 M, by their headers."""
    folder = tmp_path_factory.mktemp("headers")
    shapes = {"base": SHAPES["8b"], "tuned": SHAPES["1.7b"], "reference": SHAPES["135m"]}
    return {
        name: gguf.check(sparse_model(folder / f"{name}.gguf", shape, "q4_0", 2000)) for name, shape in shapes.items()
    }


def placed(
    headers: Mapping[str, gguf.Header],
    free: Available = PLENTY,
    gpus: tuple[Gpu, ...] = (),
    n_ctx: int | None = None,
    settings: Mapping[str, ModelSettings] | None = None,
) -> Placement:
    """The family with memory and GPUs that are made up."""
    sizes = {name: header.file_bytes for name, header in headers.items()}
    own = {name: (settings or {}).get(name, OPEN) for name in headers}
    return place(headers, sizes, own, n_ctx, 1, gpus, free)


def layers(found: Placement) -> list[int | None]:
    """Layers on the GPU, by member."""
    return [own.n_gpu_layers for own in found.settings.values()]


# ---- context and caches


def test_with_memory_to_spare_all_is_as_usual(headers: dict[str, gguf.Header]) -> None:
    found = placed(headers)
    check(found)
    assert (found.n_ctx, found.notes, layers(found)) == (4096, (), [0, 0, 0])
    assert {(own.type_k, own.type_v) for own in found.settings.values()} == {("f16", "f16")}


def test_caches_shrink_before_the_context_does(headers: dict[str, gguf.Header]) -> None:
    need = placed(headers).memory * placement.TOLERANCE
    found = placed(headers, Available(need - 1))
    check(found)
    assert found.n_ctx == 4096
    assert {(own.type_k, own.type_v) for own in found.settings.values()} == {("q8_0", "q8_0")}
    assert found.notes == ("caches in q8_0 for base, tuned, reference: memory is short",)
    shorter = placed(headers, Available(found.memory * placement.TOLERANCE - 1))
    check(shorter)
    assert (shorter.n_ctx, shorter.notes[0]) == (2048, "context of 2048 tokens, not 4096: memory is short")


def test_the_least_that_can_be_chosen_is_what_is_refused(headers: dict[str, gguf.Header]) -> None:
    found = placed(headers, Available(GIB))
    assert found.n_ctx == MIN_N_CTX
    with pytest.raises(MemoryLimitError, match=r"memory: expected \d\.\d\d GB of main memory, got 1\.07 GB free"):
        check(found)


def test_what_was_asked_for_is_left_as_it_is(headers: dict[str, gguf.Header]) -> None:
    usual = placed(headers, n_ctx=4096)
    settings = dict.fromkeys(headers, ModelSettings(n_threads=1, type_k="f16", type_v="f16"))
    tight = Available(usual.memory * placement.TOLERANCE - 1)
    assert placed(headers, tight, n_ctx=4096, settings=settings).lack
    found = placed(headers, tight, n_ctx=4096)
    assert (found.n_ctx, found.lack, found.settings["base"].type_k) == (4096, "", "q8_0")
    one = {"tuned": ModelSettings(n_threads=1, type_k="f32", flash_attn=False)}
    assert placed(headers, tight, settings=one).settings["tuned"].type_k == "f32"
    assert placed(headers, settings={"base": ModelSettings(type_k="q8_0")}).notes == (), "not for want of memory"


def test_all_that_the_models_were_trained_for(headers: dict[str, gguf.Header]) -> None:
    assert placed(headers, n_ctx=0).n_ctx == 8192


def test_caches_that_cannot_be_quantized_are_not(tmp_path: Path) -> None:
    """Heads of 80 are no whole blocks of q8_0, and without flash attention values must stay as they are."""
    odd = Shape("odd", "none", 320, 2, 4, 4, 512, 2000, tied=True)
    header = gguf.check(sparse_model(tmp_path / "odd.gguf", odd, "q8_0", 2000))
    assert placed({"base": header}, Available(1)).settings["base"].type_k == "f16"
    even = gguf.check(sparse_model(tmp_path / "m.gguf", SHAPES["135m"], "q8_0", 2000))
    plain = {"base": ModelSettings(n_threads=1, flash_attn=False)}
    assert placed({"base": even}, Available(1), settings=plain).settings["base"].type_v == "f16"


# ---- refusing


def test_a_refusal_has_the_numbers_and_says_what_to_do(headers: dict[str, gguf.Header]) -> None:
    with pytest.raises(MemoryLimitError) as caught:
        check(placed(headers, Available(GIB, why="cgroup"), n_ctx=8192))
    assert caught.value.message.endswith("got 1.07 GB left by a cgroup's limit")
    for word in ("At 8192 tokens", "base 4.", "(weights 3.", "tuned ", "reference ", "a smaller n_ctx", "quantization"):
        assert word in caught.value.hint
    assert "type_k" not in caught.value.hint  # they were quantized already


@pytest.mark.parametrize(
    ("free", "complaint"),
    [
        (Available(math.inf, address_space=GIB), "of address space, got 1.07 GB under RLIMIT_AS"),
        (Available(math.inf, data=GIB), "of private memory, got 1.07 GB under RLIMIT_DATA"),
        (Available(GIB, why="EFTLITE_MEMORY_GB"), "of main memory, got 1.07 GB by EFTLITE_MEMORY_GB"),
    ],
)
def test_every_limit_is_respected(headers: dict[str, gguf.Header], free: Available, complaint: str) -> None:
    with pytest.raises(MemoryLimitError, match=complaint):
        check(placed(headers, free))


def test_mapped_weights_are_no_private_memory(headers: dict[str, gguf.Header]) -> None:
    plain = dict.fromkeys(headers, ModelSettings(n_threads=1, use_extra_bufts=False))
    found = placed(headers, Available(math.inf, data=3 * GIB), settings=plain)
    assert not found.lack
    read = {name: ModelSettings(n_threads=1, use_extra_bufts=False, use_mmap=False) for name in headers}
    assert placed(headers, Available(math.inf, data=3 * GIB), settings=read).lack


def test_one_file_of_two_members_counts_once(headers: dict[str, gguf.Header]) -> None:
    twins = {"base": headers["base"], "tuned": headers["tuned"], "reference": headers["tuned"]}
    needs = placed(twins).needs
    assert needs["reference"].weights == 0
    assert needs["reference"].cache == needs["tuned"].cache > 0


# ---- GPUs


def test_all_on_a_large_gpu(headers: dict[str, gguf.Header]) -> None:
    found = placed(headers, gpus=(Gpu("CUDA0", 80 * GIB),))
    assert layers(found) == [33, 25, 31]
    assert found.needs["base"].devices["CUDA0"].weights > 0.9 * found.needs["base"].weights
    assert found.memory < 0.4 * placed(headers).memory  # embeddings, vocabularies and buffers stay


def test_small_members_come_first_and_the_base_takes_what_is_left(headers: dict[str, gguf.Header]) -> None:
    found = placed(headers, gpus=(Gpu("CUDA0", 6 * GIB),))
    base, tuned, reference = layers(found)
    assert (tuned, reference) == (25, 31)
    assert base is not None
    assert 0 < base < 33
    taken = sum(need.devices["CUDA0"].total for need in found.needs.values())
    assert taken <= 6 * GIB - GPU_MARGIN
    one_more = {"base": ModelSettings(n_threads=1, n_gpu_layers=base + 1)}
    more = placed(headers, gpus=(Gpu("CUDA0", 6 * GIB),), settings=one_more)
    assert layers(more)[1] != 25 or sum(n.devices["CUDA0"].total for n in more.needs.values()) > 6 * GIB - GPU_MARGIN


def test_layers_that_were_set_are_kept_and_counted_first(headers: dict[str, gguf.Header]) -> None:
    settings = {
        "base": ModelSettings(n_threads=1, n_gpu_layers=20),
        "tuned": ModelSettings(n_threads=1, n_gpu_layers=0),
    }
    found = placed(headers, gpus=(Gpu("CUDA0", 5 * GIB),), settings=settings)
    assert layers(found)[:2] == [20, 0]
    with pytest.raises(MemoryLimitError, match=r"expected .* on CUDA0, got 1\.07 GB free"):
        check(placed(headers, gpus=(Gpu("CUDA0", GIB),), settings=settings))


def test_a_gpu_with_no_room_is_left_alone(headers: dict[str, gguf.Header]) -> None:
    assert layers(placed(headers, gpus=(Gpu("CUDA0", GPU_MARGIN),))) == [0, 0, 0]


def test_layers_are_shared_out_among_gpus_as_llama_cpp_does(headers: dict[str, gguf.Header]) -> None:
    gpus = (Gpu("CUDA0", 30 * GIB), Gpu("CUDA1", 10 * GIB))
    by_memory = estimate(headers["base"], 0, ModelSettings(n_gpu_layers=-1), 512, 1, gpus=gpus).devices
    assert by_memory["CUDA0"].cache == pytest.approx(3 * by_memory["CUDA1"].cache, rel=0.2)
    split = ModelSettings(n_gpu_layers=-1, tensor_split=(1, 1))
    evenly = estimate(headers["base"], 0, split, 512, 1, gpus=gpus).devices
    assert evenly["CUDA0"].cache == pytest.approx(evenly["CUDA1"].cache, rel=0.2)
    alone = ModelSettings(n_gpu_layers=-1, split_mode="none", main_gpu=1)
    assert set(estimate(headers["base"], 0, alone, 512, 1, gpus=gpus).devices) == {CPU, "CUDA1"}


def test_caches_may_stay_in_main_memory(headers: dict[str, gguf.Header]) -> None:
    settings = ModelSettings(n_gpu_layers=-1, offload_kqv=False)
    devices = estimate(headers["base"], 0, settings, 4096, 1, gpus=(Gpu("CUDA0", 80 * GIB),)).devices
    assert (devices["CUDA0"].cache, devices[CPU].cache) == (0, 2 * 32 * 4096 * 1024 * 2)


def test_what_shares_main_memory_is_taken_from_it(headers: dict[str, gguf.Header]) -> None:
    apart = placed(headers, gpus=(Gpu("CUDA0", 80 * GIB),))
    shared = placed(headers, gpus=(Gpu("MTL0", 80 * GIB, shares_memory=True),))
    assert shared.memory > 2 * apart.memory


def test_named_devices_only(headers: dict[str, gguf.Header]) -> None:
    gpus = (Gpu("CUDA0", 80 * GIB), Gpu("CUDA1", 80 * GIB))
    found = placed(headers, gpus=gpus, settings={"base": ModelSettings(n_threads=1, devices=("CUDA1",))})
    assert set(found.needs["base"].devices) == {CPU, "CUDA1"}
    remote = {"base": ModelSettings(n_threads=1, devices=("RPC0",), n_gpu_layers=-1)}
    found = placed(headers, settings=remote)
    assert found.needs["base"].devices["RPC0"].weights > 0.9 * found.needs["base"].weights
    assert not found.lack


def test_integrated_gpus_count_where_there_are_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [("CPU", 0), ("Vulkan0", 2), ("CUDA0", 1), ("BLAS", 3)]
    rows = [{"name": name, "kind": kind, "free_bytes": 7, "total_bytes": 9} for name, kind in kinds]
    monkeypatch.setattr(placement, "supports_gpu", lambda: True)
    monkeypatch.setattr(placement, "llama_devices", lambda: rows)
    assert local_gpus() == [Gpu("CUDA0", 7)]
    monkeypatch.setattr(placement, "llama_devices", lambda: rows[:2])
    assert local_gpus() == [Gpu("Vulkan0", 7, shares_memory=True)]
    monkeypatch.setattr(placement, "llama_devices", lambda: [{**rows[2], "name": "MTL0"}])
    assert local_gpus() == [Gpu("MTL0", 7, shares_memory=True)]
    monkeypatch.setattr(placement, "supports_gpu", lambda: False)
    assert local_gpus() == []
    assert all(one["kind"] in {0, 1, 2, 3} for one in llama.devices())
