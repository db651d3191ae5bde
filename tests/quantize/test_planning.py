"""Names of the files that are made, and of those that a model consists of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eftlite.gguf import Header, check
from eftlite_quantize.names import TYPES
from eftlite_quantize.planning import part_paths, target_path
from tests.tiny_gguf import write_model


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Header:
    return check(write_model(tmp_path_factory.mktemp("model") / "tiny.gguf", seed=1))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("model.gguf", "model-Q4_K_M.gguf"),
        ("model-f16.gguf", "model-Q4_K_M.gguf"),
        ("Model-1.5B-Instruct-BF16.gguf", "Model-1.5B-Instruct-Q4_K_M.gguf"),
        ("model.q8_0.gguf", "model-Q4_K_M.gguf"),
        ("model-Q4_K_S.gguf", "model-Q4_K_M.gguf"),
        ("model-f16-00001-of-00003.gguf", "model-Q4_K_M.gguf"),
        ("f16.gguf", "f16-Q4_K_M.gguf"),
        ("-f16.gguf", "-f16-Q4_K_M.gguf"),
        ("model-f16-tuned.gguf", "model-f16-tuned-Q4_K_M.gguf"),
        ("model", "model-Q4_K_M.gguf"),
    ],
)
def test_targets(header: Header, source: str, target: str) -> None:
    found = target_path(replace(header, path=Path("in") / source), TYPES["Q4_K_M"], Path("out"))
    assert found == Path("out") / target


def test_parts(header: Header) -> None:
    assert part_paths(header) == [header.path]
    split = replace(header, path=Path("in/model-00001-of-00003.gguf"), split=(0, 3))
    assert [path.name for path in part_paths(split)] == [f"model-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
