"""Downloads: a file is whole and of the hub's hash, or not there; whatever the line, the server and the disk do."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, hf_hub_download, scan_cache_dir

from eftlite.errors import HubError
from eftlite.hub import Remote, cache, fetch
from tests.fake_hub import TOKEN, FakeHub
from tests.hub.models import BODY, files_of, is_absent, partial, remote, reported, start_fetching


def test_it_is_where_the_library_would_have_put_it(hub: FakeHub, model: Remote) -> None:
    path = fetch(model)
    assert path.read_bytes() == BODY
    assert files_of(cache.root()) == sorted([model.files[0].hash, "m-Q8_0.gguf", "main"]), "nothing is left over"
    n_requests = len(hub.seen)
    assert fetch(model) == path
    assert len(hub.seen) == n_requests, "what is here is not asked for"
    by_library = hf_hub_download("org/repo", "deep/m-Q8_0.gguf", endpoint=hub.url, cache_dir=constants.HF_HUB_CACHE)
    assert by_library == str(path)
    assert [one.path for one in hub.seen[n_requests:]] == ["/org/repo/resolve/main/deep/m-Q8_0.gguf"], "not its bytes"
    (scanned,) = scan_cache_dir(constants.HF_HUB_CACHE).repos
    assert (scanned.repo_id, scanned.size_on_disk) == ("org/repo", len(BODY))


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/gated", {"m.gguf": BODY}, gated=True)
    with pytest.raises(HubError, match="gated"):
        fetch(remote("org/gated"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch(remote("org/gated")).read_bytes() == BODY
    assert {one.token for one in hub.seen if one.is_store} == {None}
    assert {one.encoding for one in hub.seen if one.is_store} == {"identity"}, (
        "of compressed bytes ranges make no sense"
    )


def test_small_files_are_held_to_gits_hash(hub: FakeHub) -> None:
    hub.add("org/repo", {"m.gguf": b"GGUF"}, small=frozenset({"m.gguf"}))
    assert fetch(remote("org/repo")).read_bytes() == b"GGUF"
    hub.add("org/other", {"m.gguf": b"GGUF"}, small=frozenset({"m.gguf"}))
    hub.misdeeds.bodies["m.gguf"] = b"GGUG"
    with pytest.raises(HubError, match="expected the hash"):
        fetch(remote("org/other"))


def test_progress_counts_every_byte_once(hub: FakeHub, model: Remote) -> None:
    hub.misdeeds.cuts = [100_000, 50_000]
    steps: list[int] = []
    fetch(model, lambda name, n_bytes: steps.append(n_bytes))
    assert sum(steps) == len(BODY)
    assert len(steps) > 3
    again: list[int] = []
    fetch(model, lambda name, n_bytes: again.append(n_bytes), verify=True)
    assert sum(again) == len(BODY)


# ---- the line


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_cut_at_random_points(hub: FakeHub, model: Remote, ignores_ranges: bool) -> None:
    """Reliability: 20 random points, with and without ranges; what came stays, and nothing comes twice."""
    hub.misdeeds.ignores_ranges = ignores_ranges
    for seed in range(20):
        draw = random.Random(seed)
        hub.misdeeds.cuts, n_ranges = [draw.randrange(len(BODY)) for _ in range(3)], len(hub.byte_ranges())
        assert reported(model) == len(BODY)
        assert model.path.read_bytes() == BODY
        starts = [start for start, _ in hub.byte_ranges()[n_ranges:]]
        assert len(starts) > 1
        assert starts == sorted(starts) or ignores_ranges
        assert files_of(cache.root()) == sorted([model.files[0].hash, "m-Q8_0.gguf", "main"])
        model.path.resolve().unlink()


def test_a_run_goes_on_where_the_last_one_ended(hub: FakeHub, model: Remote) -> None:
    hub.misdeeds.cuts = [100_000, 0, 0, 0, 0, 0]
    with pytest.raises(HubError, match="the hub cannot be reached"):
        fetch(model)
    assert is_absent(model)
    assert partial(model).stat().st_size == 100_000
    assert fetch(model).read_bytes() == BODY
    assert hub.byte_ranges()[-1] == (100_000, len(BODY) - 1)


def test_what_a_run_left_is_hashed_again(hub: FakeHub, model: Remote) -> None:
    partial(model).parent.mkdir(parents=True)
    partial(model).write_bytes(b"x" + BODY[1:100_000])
    assert reported(model) == len(BODY)
    assert model.path.read_bytes() == BODY
    assert hub.byte_ranges() == [(100_000, len(BODY) - 1), (0, len(BODY) - 1)], "the rest, then all of it"


@pytest.mark.parametrize("left", [BODY, BODY + b"more", b""])
def test_whatever_a_run_left(hub: FakeHub, model: Remote, left: bytes) -> None:
    partial(model).parent.mkdir(parents=True)
    partial(model).write_bytes(left)
    assert fetch(model).read_bytes() == BODY
    assert len(hub.byte_ranges()) == (left != BODY)


@pytest.mark.parametrize("is_resumed", [False, True])
def test_other_bytes_are_never_kept(hub: FakeHub, model: Remote, is_resumed: bool) -> None:
    if is_resumed:
        partial(model).parent.mkdir(parents=True)
        partial(model).write_bytes(BODY[:1000])
    hub.misdeeds.bodies["deep/m-Q8_0.gguf"] = BODY[:-1] + b"x"
    with pytest.raises(HubError, match=r"org/repo: deep/m-Q8_0\.gguf: expected the hash .*…, got .*was not kept"):
        fetch(model)
    assert is_absent(model)
    assert not partial(model).exists()
    hub.misdeeds.bodies.clear()
    assert fetch(model).read_bytes() == BODY


@pytest.mark.parametrize("ignores_ranges", [False, True])
@pytest.mark.parametrize("body", [BODY[:-1], b"", b"<html>Sign in to this network</html>"])
def test_another_size_is_never_kept(hub: FakeHub, model: Remote, body: bytes, ignores_ranges: bool) -> None:
    hub.misdeeds.bodies["deep/m-Q8_0.gguf"], hub.misdeeds.ignores_ranges = body, ignores_ranges
    with pytest.raises(HubError):
        fetch(model)
    assert is_absent(model)


def test_a_shorter_file_is_known_at_once(hub: FakeHub, model: Remote) -> None:
    hub.misdeeds.bodies["deep/m-Q8_0.gguf"] = BODY[:-1]
    with pytest.raises(HubError, match="expected 300,000 bytes, got a file of 299,999"):
        fetch(model)
    assert len(hub.byte_ranges()) == 1


def test_a_line_that_breaks_and_breaks_is_good_enough(hub: FakeHub, model: Remote) -> None:
    hub.misdeeds.cuts = [20_000] * 14
    assert reported(model) == len(BODY)
    assert len(hub.byte_ranges()) == 15


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_what_is_beyond_the_end_is_left_there(hub: FakeHub, model: Remote, ignores_ranges: bool) -> None:
    hub.misdeeds.bodies["deep/m-Q8_0.gguf"], hub.misdeeds.ignores_ranges = BODY + b"more", ignores_ranges
    assert fetch(model).read_bytes() == BODY


def test_a_busy_store_is_asked_again(hub: FakeHub, model: Remote) -> None:
    hub.misdeeds.statuses = [503, 429, 500]
    assert fetch(model).read_bytes() == BODY
    assert len(hub.byte_ranges()) == 4


def test_a_refusal_is_not_repeated(hub: FakeHub, model: Remote) -> None:
    hub.misdeeds.statuses = [403]
    with pytest.raises(HubError) as found:
        fetch(model)
    assert "org/repo: the hub answered 403, No access to …" in str(found.value)
    assert "signature" not in str(found.value)
    assert len(hub.byte_ranges()) == 1


def test_a_file_that_was_removed(hub: FakeHub, model: Remote) -> None:
    del hub.repos["org/repo"].files["deep/m-Q8_0.gguf"]
    hub.repos["org/repo"].revisions = (model.commit,)
    with pytest.raises(HubError, match=r"deep/m-Q8_0\.gguf: the repository has no such file"):
        fetch(model)


def test_a_server_that_says_nothing_is_given_up(hub: FakeHub, model: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.misdeeds.gate = threading.Event()
    began = time.monotonic()
    with pytest.raises(HubError, match="the hub cannot be reached"):
        fetch(model)
    assert time.monotonic() - began < 4


def test_a_slow_line_is_waited_for(hub: FakeHub, model: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.misdeeds.delay_s = 0.02  # 0.4 s in all, never 0.2 s without a byte
    assert fetch(model).read_bytes() == BODY
    assert len(hub.byte_ranges()) == 1


# ---- other processes


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_process_is_continued(hub: FakeHub, model: Remote, home: Path) -> None:
    hub.misdeeds.delay_s = 0.05
    process = start_fetching(hub, home)
    try:
        wait_for(lambda: partial(model).exists() and partial(model).stat().st_size > 50_000)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert is_absent(model)
    hub.misdeeds.delay_s = 0.0
    kept = partial(model).stat().st_size
    assert fetch(model).read_bytes() == BODY
    assert hub.byte_ranges()[-1][0] == kept > 50_000


def test_two_processes_at_once_fetch_it_once(hub: FakeHub, model: Remote, home: Path) -> None:
    hub.misdeeds.gate = threading.Event()
    process = start_fetching(hub, home)
    said: list[str] = []
    try:
        wait_for(hub.byte_ranges)  # it holds the lock by now
        threading.Timer(cache._SOON_S + 0.2, hub.misdeeds.gate.set).start()
        path = fetch(model, lambda name, n_bytes: said.append(name))
        output, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert output.split() == ["begun", str(path)], errors
    assert path.read_bytes() == BODY
    assert len(hub.byte_ranges()) == 1
    assert said == ["deep/m-Q8_0.gguf: another process fetches it", "deep/m-Q8_0.gguf"]


def test_threads_at_once(hub: FakeHub, model: Remote) -> None:
    threads = [threading.Thread(target=fetch, args=(model,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert model.path.read_bytes() == BODY
    assert len(hub.byte_ranges()) == 1
