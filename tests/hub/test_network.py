"""The real hub, with the smallest files that there are: what the local one imitates is still so."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from eftlite.errors import HubError
from eftlite.hub import Remote, fetch, header, locate, parse

pytestmark = pytest.mark.network
# llama.cpp's own tests fetch this one: 260,000 parameters, 1.2 MB.
SMALL = "ggml-org/models/tinyllamas/stories260K.gguf"
# A vocabulary of 150,000 tokens, whose header takes megabytes.
LARGE = "Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M"


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ask, into a cache of the test's own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


def remote(text: str) -> Remote:
    """What a reference means."""
    reference = parse(text)
    assert reference is not None
    return locate(reference, live=True)


def test_a_small_model_arrives_whole() -> None:
    found = remote(SMALL)
    assert len(found.files[0].hash) == 64
    path = fetch(found)
    assert path.stat().st_size == found.n_bytes
    assert fetch(found, verify=True) == path


def test_case_and_types_are_as_llama_cpp_has_them() -> None:
    found = remote(LARGE.lower())
    assert found.repo == "Qwen/Qwen2.5-0.5B-Instruct-GGUF"
    assert found.files[0].name == "qwen2.5-0.5b-instruct-q4_k_m.gguf"


def test_a_header_takes_a_part_of_the_file() -> None:
    found = remote(LARGE)
    about = header(found)
    assert (about.architecture, about.n_vocab, about.file_bytes) == ("qwen2", 151936, found.n_bytes)
    assert about.path.stat().st_size < found.n_bytes / 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("eftlite-tests/there-is-no-such-repository", "got none of this name, or a private one"),
        ("Qwen/Qwen2.5-0.5B-Instruct-GGUF@no-such-revision", "expected the revision no-such-revision"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Original weights are of no use here"),
    ],
)
def test_refusals(text: str, words: str) -> None:
    with pytest.raises(HubError) as found:
        remote(text)
    assert words in str(found.value)
