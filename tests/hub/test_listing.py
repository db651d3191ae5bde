"""Listings: the hub's word, the cache's when the hub is away, and what is refused, in one line each."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

from eftlite.errors import HubError
from eftlite.hub import Remote, fetch, find, locate, parse
from eftlite.hub.listing import File
from tests.fake_hub import TOKEN, FakeHub, git_sha1, sha256

BODY = b"GGUF" + bytes(1000)


def remote(text: str, live: bool = False) -> Remote:
    """What a reference means."""
    reference = parse(text)
    assert reference is not None
    return locate(reference, live)


def refusal(text: str) -> str:
    """Why a reference means nothing, on one line."""
    with pytest.raises(HubError) as found:
        remote(text)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_names_sizes_and_hashes_are_the_hubs(hub: FakeHub) -> None:
    repo = hub.add("Org/Repo", {"m-Q8_0.gguf": BODY, "small.gguf": b"GGUF", "README.md": b"#"}, small={"small.gguf"})
    found = remote("org/repo:q8_0")
    assert found == Remote("Org/Repo", "main", repo.commit, (File("m-Q8_0.gguf", len(BODY), sha256(BODY)),))
    assert remote("Org/Repo/small.gguf").files == (File("small.gguf", 4, git_sha1(b"GGUF")),)
    assert found.n_bytes == len(BODY)
    assert not found.is_here


def test_a_revision_is_the_one_that_was_asked_for(hub: FakeHub) -> None:
    repo = hub.add("org/repo", {"m.gguf": BODY}, revisions=("main", "v1"))
    assert remote("org/repo@v1").commit == remote(f"org/repo@{repo.commit}").commit == repo.commit
    assert remote("org/repo@v1").revision == "v1"
    assert "expected the revision v2, got none of this name" in refusal("org/repo@v2")


def test_split_models_are_listed_whole(hub: FakeHub) -> None:
    names = [f"q/m-Q4_0-{i:05}-of-00002.gguf" for i in (1, 2)]
    hub.add("org/repo", {name: name.encode() for name in reversed(names)})
    assert [file.name for file in remote("org/repo:q4_0").files] == names


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_missing_repository_is_said_in_one_line(
    hub: FakeHub, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    words = refusal("org/nope")
    assert words.startswith("org/nope: expected a repository of the hub, got none of this name, or a private one")
    assert "begins with ./" in words


def test_a_private_repository_takes_a_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/secret", {"m.gguf": BODY}, private=True)
    assert "or a private one" in refusal("org/secret")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert remote("org/secret").files[0].name == "m.gguf"


def test_a_wrong_token_is_named_never_shown(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/repo", {"m.gguf": BODY})
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the hub refused the token. HF_TOKEN is wrong" in refusal("org/repo")
    assert "hf_wrong" not in refusal("org/repo")


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_hub_is_asked_once_more(hub: FakeHub, status: int) -> None:
    hub.misdeeds.listing_status = status
    assert f"org/repo: the hub is busy ({status}). Try again later" in refusal("org/repo")
    assert len(hub.listings()) == 2


def test_something_that_is_no_hub(hub: FakeHub) -> None:
    hub.misdeeds.listing_body = b"<html>Welcome to the hotel's network</html>"
    assert "Check the name, and HF_ENDPOINT if it is set" in refusal("org/repo")


def test_names_that_would_leave_the_cache_are_not_listed(hub: FakeHub) -> None:
    names = ["../m.gguf", "/etc/m.gguf", "a/../../m.gguf", "c:m.gguf", "a\\m.gguf"]
    hub.add("org/repo", dict.fromkeys(names, BODY))
    assert "got no GGUF file" in refusal("org/repo")


def test_without_the_hub_the_cache_answers(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("Org/Repo", {"m-Q8_0.gguf": BODY, "m-Q4_0.gguf": b"GGUF"})
    online = remote("org/repo:Q8_0")
    fetch(online)
    hub.close()
    assert remote("ORG/repo:Q8_0") == online
    assert remote("org/repo") == online, "of what is here, the preferred"
    assert "the hub cannot be reached" in refusal("org/repo:Q4_0")
    with pytest.raises(HubError):
        remote("org/repo:Q8_0", live=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert remote(f"org/repo@{online.commit}:q8_0").files == online.files
    assert "not in the cache, and HF_HUB_OFFLINE is set. Unset it" in refusal("org/repo:Q4_0")
    assert "not in the cache" in refusal("other/repo")


def test_a_part_of_a_split_model_is_not_a_model(hub: FakeHub) -> None:
    names = [f"m-Q4_0-{i:05}-of-00002.gguf" for i in (1, 2)]
    hub.add("org/repo", {name: name.encode() for name in names})
    found = remote("org/repo")
    fetch(found)
    reference = parse("org/repo:Q4_0")
    assert reference is not None
    assert find(reference) == found
    (found.path.parent / names[1]).unlink()
    assert find(reference) is None


def test_files_that_the_library_fetched_are_found(hub: FakeHub) -> None:
    repo = hub.add("org/repo", {"deep/m-Q8_0.gguf": BODY})
    path = hf_hub_download("org/repo", "deep/m-Q8_0.gguf", endpoint=hub.url, cache_dir=constants.HF_HUB_CACHE)
    reference = parse("org/repo:Q8_0")
    assert reference is not None
    found = find(reference)
    assert found == Remote("org/repo", "main", repo.commit, (File("deep/m-Q8_0.gguf", len(BODY), sha256(BODY)),))
    assert found.path == Path(path)
    assert found.is_here
