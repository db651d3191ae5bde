"""Headers of models that are on the hub only: the same as the file's own, for few requests and few bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eftlite import gguf
from eftlite.errors import HubError, ModelFileError
from eftlite.gguf import Header
from eftlite.hub import Remote, fetch, header, locate, parse
from eftlite.inspection import relate, vocabulary
from tests.fake_hub import FakeHub
from tests.test_gguf import split_model
from tests.tiny_gguf import write_model


@pytest.fixture(autouse=True)
def small_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models have tiny headers."""
    monkeypatch.setattr("eftlite.hub.headers._FIRST_BYTES", 4096)


def remote(text: str) -> Remote:
    """What a reference means."""
    reference = parse(text)
    assert reference is not None
    return locate(reference)


def without_path(found: Header) -> Header:
    """A header wherever it was read."""
    return replace(found, path=Path())


def test_it_is_the_files_own(hub: FakeHub, demo_family: dict[str, Path]) -> None:
    hub.add("org/repo", {"base-f16.gguf": demo_family["base"]})
    found = header(remote("org/repo"))
    expected = gguf.check(demo_family["base"])
    assert without_path(found) == without_path(expected)
    assert vocabulary(found, "it").texts == vocabulary(expected, "it").texts
    asked = sum(end - start + 1 for start, end in hub.byte_ranges())
    assert asked < 2 * expected.tensors[0].offset + (1 << 16), "no more weights than a request brings along"
    n_requests = len(hub.seen)
    assert header(remote("org/repo")) == found
    assert not hub.seen[n_requests:][1:], "the second time only the listing is asked for"


def test_families_can_be_compared_before_anything_is_downloaded(hub: FakeHub, demo_family: dict[str, Path]) -> None:
    hub.add("org/repo", {f"{role}.gguf": demo_family[role] for role in ("base", "tuned")})
    headers = {role: header(remote(f"org/repo/{role}.gguf")) for role in ("base", "tuned")}
    relation = relate(headers)
    assert relation.shared is not None
    assert relation.shared.n_vocab == headers["base"].n_vocab


def test_all_parts_of_a_split_model(hub: FakeHub, tmp_path: Path) -> None:
    first = split_model(tmp_path)
    hub.add("org/repo", {path.name: path for path in tmp_path.glob("*.gguf")})
    found = header(remote("org/repo"))
    assert found.split == (0, 2)
    assert without_path(found) == without_path(gguf.check(first))


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_cuts_and_servers_without_ranges(hub: FakeHub, tmp_path: Path, ignores_ranges: bool) -> None:
    path = write_model(tmp_path / "m.gguf", seed=1)
    hub.add("org/repo", {"m.gguf": path})
    hub.misdeeds.cuts, hub.misdeeds.ignores_ranges = [1000, 0, 500, None, 100], ignores_ranges
    hub.misdeeds.statuses = [0, 503]
    assert without_path(header(remote("org/repo"))) == without_path(gguf.check(path))


def test_a_connection_that_always_breaks_ends(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("org/repo", {"m.gguf": write_model(tmp_path / "m.gguf", seed=1)})
    hub.misdeeds.cuts = [0] * 100
    with pytest.raises(HubError, match="cannot be reached"):
        header(remote("org/repo"))
    assert len(hub.byte_ranges()) == 5


def test_what_is_no_model_is_said(hub: FakeHub) -> None:
    hub.add("org/repo", {"m.gguf": b"version https://git-lfs.github.com/spec/v1\n" + bytes(100)})
    with pytest.raises(ModelFileError, match=r"m\.gguf: expected a GGUF file, got a git-lfs pointer"):
        header(remote("org/repo"))


def test_a_cache_that_cannot_be_written(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/repo", {"m.gguf": write_model(tmp_path / "m.gguf", seed=1)})
    monkeypatch.setenv("EFTLITE_CACHE_DIR", str(tmp_path / "m.gguf"))
    with pytest.raises(HubError, match=r"m\.gguf: its header cannot be kept"):
        header(remote("org/repo"))


def test_a_gated_file_is_explained(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("meta/llama", {"m.gguf": write_model(tmp_path / "m.gguf", seed=1)}, gated=True)
    with pytest.raises(HubError) as found:
        header(remote("meta/llama"))
    assert "meta/llama: gated: its publisher wants its terms accepted first" in str(found.value)
    assert f"Open {hub.url}/meta/llama, accept its terms, and set HF_TOKEN" in str(found.value)


def test_a_model_that_is_here_is_not_asked_for(hub: FakeHub, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", seed=1)
    hub.add("org/repo", {"m.gguf": path})
    found = remote("org/repo")
    fetch(found)
    n_requests = len(hub.seen)
    assert header(found).path == found.path
    assert len(hub.seen) == n_requests
