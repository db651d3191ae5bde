"""Families of references: made local in one go, after the plan was asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import gguf
import pytest
from huggingface_hub import constants

from eftlite import EFT
from eftlite.errors import HubError, InputError, MemoryLimitError
from eftlite.gguf import Header
from eftlite.hub import cache, header_of, local_path, localize
from eftlite.settings import Delta, Family, ModelSettings
from tests.conftest import ROOT
from tests.fake_hub import FakeHub
from tests.tiny_gguf import write_family, write_model

FAMILY = Family(
    "mine", "org/repo:F16", (Delta("tuned", "org/small/tuned-f16.gguf", "org/small/reference-f16.gguf"),), real="o/r"
)


@pytest.fixture
def files(tmp_path: Path, demo_family: dict[str, Path]) -> dict[str, Path]:
    """A tiny family by role, and some adapter."""
    return {**write_family(tmp_path, seed=1), "lora": demo_family["lora"]}


@pytest.fixture
def published(hub: FakeHub, files: dict[str, Path]) -> FakeHub:
    """That family on the hub, in two repositories."""
    hub.add("org/repo", {"base-f16.gguf": files["base"], "base-q8_0.gguf": files["tuned"]})
    hub.add("org/small", {f"{role}-f16.gguf": files[role] for role in ("tuned", "reference", "lora")})
    return hub


def test_a_family_of_paths_is_left_as_it_is() -> None:
    family = Family("mine", "base.gguf", (Delta("tuned", "./t", "/r"),))
    assert localize(family) is family
    command = "import sys, eftlite.hub as h, eftlite.settings as s; h.localize(s.Family('m', 'b.gguf'));"
    command += "sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=False, timeout=60).returncode == 0


def test_every_reference_becomes_a_path(published: FakeHub, files: dict[str, Path]) -> None:
    told: list[tuple[str, float]] = []
    family = localize(FAMILY, lambda what, share: told.append((what, share)))
    (delta,) = family.deltas
    for role, path in (("base", family.base), ("tuned", delta.tuned), ("reference", delta.reference)):
        assert Path(path).read_bytes() == files[role].read_bytes()
    assert family.real == "o/r", "it is never loaded"
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert told[-1][0] == "fetching reference-f16.gguf, 100%"


def test_adapters_too(published: FakeHub, files: dict[str, Path]) -> None:
    reference, lora = str(files["reference"]), "org/small/lora-f16.gguf"
    family = localize(Family("mine", reference, (Delta("t", reference, reference, adapter=lora),), adapter=lora))
    assert family.base == family.deltas[0].tuned == reference
    assert family.adapter == family.deltas[0].adapter
    assert Path(family.adapter or "").read_bytes() == files["lora"].read_bytes()


def test_once_here_nobody_is_asked(published: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = localize(FAMILY)
    n_requests = len(published.seen)
    assert localize(FAMILY) == first
    assert len(published.seen) == n_requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert localize(FAMILY) == first
    with pytest.raises(HubError, match="not in the cache, and HF_HUB_OFFLINE is set"):
        localize(Family("mine", "org/repo:Q8_0"))


def test_what_is_left_open_is_asked_each_time(published: FakeHub) -> None:
    local_path("org/repo:F16")
    assert local_path("org/repo").endswith("base-q8_0.gguf"), "not the one that happens to be here"


def test_the_plan_comes_before_the_download(published: FakeHub) -> None:
    asked: list[tuple[Family, Mapping[str, Header]]] = []

    def refuse(family: Family, headers: Mapping[str, Header]) -> None:
        asked.append((family, headers))
        raise MemoryLimitError("expected less")

    with pytest.raises(MemoryLimitError):
        localize(FAMILY, plan=refuse)
    family, headers = asked[0]
    (delta,) = family.deltas
    assert set(headers) == {family.base, delta.tuned, delta.reference}
    assert headers[family.base].file_bytes == len(published.repos["org/repo"].files["base-f16.gguf"])
    assert sum(end - start + 1 for start, end in published.byte_ranges()) < 4 << 20, "headers alone"
    localize(FAMILY)
    localize(FAMILY, plan=refuse)  # nothing is downloaded, nothing is asked
    assert len(asked) == 1


def test_header_of_a_path_or_a_reference(published: FakeHub, files: dict[str, Path]) -> None:
    assert header_of("org/repo:F16").tensors == header_of(str(files["base"])).tensors


# ---- through loading


def test_loading_asks_for_memory_before_it_downloads(published: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFTLITE_MEMORY_GB", "0.001")
    with pytest.raises(MemoryLimitError, match="memory: expected"):
        EFT(family=FAMILY)
    assert not list(cache.root().rglob("*.gguf"))


def test_settings_for_nobody_are_refused_before_anything_is_downloaded(published: FakeHub) -> None:
    with pytest.raises(InputError, match="got 'tunde'"):
        EFT(family=FAMILY, settings={"tunde": ModelSettings()})
    assert not list(cache.root().rglob("*.gguf"))


def test_a_split_model_is_loaded_from_the_cache(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp finds the parts by name, and what the cache's links lead to has none."""
    monkeypatch.setattr(gguf, "GGUFWriter", partial(gguf.GGUFWriter, split_max_tensors=8))
    write_model(tmp_path / "m-F32.gguf", seed=1)
    hub.add("org/repo", {f"F32/{path.name}": path for path in tmp_path.glob("*.gguf")})
    with EFT(base="org/repo:f32") as eft:
        assert eft.members == ("base",)


def test_a_drafter_may_be_a_reference(published: FakeHub) -> None:
    with EFT(base="org/repo:F16", drafter="org/small/tuned-f16.gguf") as eft:
        assert eft.speculation.drafter == "drafter"
