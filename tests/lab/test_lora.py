"""Low-rank adapters in torch: what is trained, what a merged model computes, and what the file says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from eftlite.gguf import check
from eftlite.gguf_adapter import check_adapter, check_fit
from tests.conftest import DEMO
from tests.lora import changes

pytestmark = pytest.mark.lab
REFERENCE = DEMO / "reference-f16.gguf"


@pytest.fixture(scope="module")
def lab() -> SimpleNamespace:
    """Torch and the modules under test, which need it; not imported by a run that leaves these tests out."""
    torch = pytest.importorskip("torch")
    lora, export = (pytest.importorskip(f"lab.train.{name}") for name in ("lora", "export"))
    return SimpleNamespace(torch=torch, lora=lora, load=export.load, size=lora.Rank(rank=4, alpha=6.0))


@pytest.fixture
def adapted(lab: SimpleNamespace) -> Any:
    """The bundled reference with factors that do something."""
    lab.torch.manual_seed(3)
    model = lab.lora.adapt(lab.load(REFERENCE), lab.size)
    for layer in lab.lora.factors(model).values():
        lab.torch.nn.init.normal_(layer.b, std=0.05)
    return model


def logits(lab: SimpleNamespace, model: Any) -> Any:
    """Of a text of 40 tokens, (1, 40, n_vocab)."""
    with lab.torch.no_grad():
        return model(lab.torch.arange(40).reshape(1, 40))


def test_only_the_factors_are_trained(lab: SimpleNamespace, adapted: Any) -> None:
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert len(trained) == 2 * len(lab.lora.factors(adapted)) == 28
    assert all(name.endswith((".a", ".b")) for name in trained)


def test_a_fresh_adapter_changes_nothing(lab: SimpleNamespace) -> None:
    fresh = lab.lora.adapt(lab.load(REFERENCE), lab.size)
    assert lab.torch.equal(logits(lab, fresh), logits(lab, lab.load(REFERENCE)))


def test_merged_is_adapted(lab: SimpleNamespace, adapted: Any) -> None:
    ours = logits(lab, adapted)
    lab.torch.testing.assert_close(logits(lab, lab.lora.merge(adapted)), ours, rtol=0, atol=1e-4)
    assert not lab.torch.allclose(ours, logits(lab, lab.load(REFERENCE)), rtol=0, atol=1e-1)


def test_the_file_holds_the_factors(lab: SimpleNamespace, adapted: Any, tmp_path: Path) -> None:
    path = tmp_path / "lora.gguf"
    lab.lora.export_adapter(adapted, lab.size, path, "an adapter", "for a test")
    found = check_adapter(path)
    check_fit(found, check(REFERENCE))
    assert (found.rank, found.alpha, found.name, len(found.pairs)) == (4, 6.0, "an adapter", 14)
    layer = adapted.blocks[1].ffn.down
    exact = (layer.merged() - layer.plain.weight).detach().numpy()
    np.testing.assert_allclose(changes(path)["blk.1.ffn_down.weight"], exact, rtol=0, atol=1e-3 * np.abs(exact).max())
