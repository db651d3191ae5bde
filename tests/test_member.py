"""One model with its context, through llama.cpp: rows, batches, slots, rewinding, return codes, cancellation."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from eftlite.errors import CacheFullError, Cancelled, EngineError
from eftlite.llama import Model
from eftlite.member import MAX_ROWS, CancelFlag, Member, physical_cores
from eftlite.settings import ModelSettings
from tests.fakes import failing_decode, watched_decodes
from tests.tiny_gguf import write_model

IDS = [65, 66, 67, 300, 301, 68, 69, 70, 71, 72]
SETTINGS = ModelSettings(n_threads=1, n_batch=8, type_k="f32", type_v="f32", flash_attn=False)
CLOSE = 1e-4  # of logits with a deviation of 3, between batches of different sizes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A tiny model; closed after its members."""
    made = Model(write_model(tmp_path_factory.mktemp("member") / "m.gguf", seed=1), SETTINGS, "tiny")
    yield made
    made.close()


@pytest.fixture
def member(model: Model) -> Iterator[Member]:
    """A context of two slots."""
    made = Member(model, 64, n_slots=2)
    yield made
    made.close()


def expected(model: Model, ids: list[int]) -> NDArray[np.float32]:
    """(len(ids), n_vocab) float32: the rows after each id, from single steps in a context of their own."""
    other = Member(model, 64)
    rows: list[NDArray[np.float32]] = []
    for token in ids:
        other.decode(0, [token])
        rows.append(other.row(0, len(rows) + 1).copy())
    other.close()
    return np.array(rows)


# ---- rows


def test_rows_of_a_batch_are_those_of_single_steps(model: Model, member: Member) -> None:
    member.decode(0, IDS[:8], 8)
    rows = np.array([member.row(0, n) for n in range(1, 9)])
    np.testing.assert_allclose(rows, expected(model, IDS[:8]), atol=CLOSE)
    assert member.slots[0] == IDS[:8]
    member.validate(0)


def test_a_row_is_a_view_of_llama_cpps_own_memory(member: Member) -> None:
    member.decode(0, IDS[:3], 2)
    row = member.row(0, 3)
    assert row.shape == (member.n_vocab,)
    assert row.dtype == np.float32
    assert not row.flags.writeable
    assert not row.flags.owndata
    address = ctypes.addressof(llama_cpp.llama_get_logits_ith(member._handle, 2).contents)
    assert row.ctypes.data == address
    assert member.row(0, 3) is row


@pytest.mark.parametrize("n_rows", [0, 1, 2, 7])
def test_long_texts_go_in_several_batches(model: Model, member: Member, n_rows: int) -> None:
    """20 tokens in batches of 8; the wanted rows stand in the last one, whatever their number."""
    ids = (IDS * 2)[:20]
    with watched_decodes() as seen:
        member.decode(0, ids, n_rows)
    assert max(seen.sizes) <= 8
    assert seen.n_tokens == 20
    assert member.slots[0] == ids
    member.validate(0)
    right = expected(model, ids)
    for n in range(20 - n_rows + 1, 21):
        np.testing.assert_allclose(member.row(0, n), right[n - 1], atol=CLOSE)
    assert not member.has_row(0, 20 - n_rows)


@pytest.mark.parametrize("asked", [(0, 0), (0, 1), (0, 4), (1, 3)])
def test_rows_that_were_not_kept_are_refused(member: Member, asked: tuple[int, int]) -> None:
    member.decode(0, IDS[:3], 2)
    assert not member.has_row(*asked)
    with pytest.raises(EngineError, match=rf"tiny, slot {asked[0]}: the last decode kept no logits after {asked[1]}"):
        member.row(*asked)


def test_more_rows_than_one_decode_keeps_are_refused(model: Model, member: Member) -> None:
    with pytest.raises(EngineError, match="at most 8 rows from one decode, got 9"):
        member.decode(0, IDS, 9)
    assert member.slots[0] == []
    wide = Member(model, 128, settings=ModelSettings(n_threads=1, n_batch=128))
    with pytest.raises(EngineError, match=f"at most {MAX_ROWS} rows"):
        wide.decode(0, IDS * 10, MAX_ROWS + 1)
    wide.decode(0, (IDS * 10)[:MAX_ROWS], MAX_ROWS)
    wide.close()


def test_seconds_are_counted_in_decodes_only(member: Member) -> None:
    assert member.seconds == 0.0  # not those of the probe
    member.decode(0, IDS[:4])
    assert member.seconds > 0.0


# ---- the cache


@pytest.mark.parametrize("n_keep", [1, 4, 7])
def test_rewinding_goes_on_as_if_the_rest_had_never_been(model: Model, member: Member, n_keep: int) -> None:
    member.decode(0, IDS[:8], 8)
    assert member.rewind(0, n_keep) == n_keep
    member.validate(0)
    assert member.has_row(0, n_keep)
    assert not member.has_row(0, n_keep + 1)
    member.decode(0, [99, 98], 1)
    np.testing.assert_allclose(member.row(0, n_keep + 2), expected(model, [*IDS[:n_keep], 99, 98])[-1], atol=CLOSE)
    member.validate(0)


def test_rewinding_to_what_is_held_does_nothing(member: Member) -> None:
    member.decode(0, IDS[:4])
    assert member.rewind(0, 4) == member.rewind(0, 9) == 4
    assert member.has_row(0, 4)
    assert member.rewind(0, 0) == 0
    assert member.slots[0] == []
    member.validate(0)


def test_slots_are_independent(model: Model, member: Member) -> None:
    member.decode(0, IDS[:3])
    member.decode(1, IDS[5:9])
    assert not member.has_row(0, 3)  # overwritten by the other slot's
    member.decode(0, IDS[3:5])
    np.testing.assert_allclose(member.row(0, 5), expected(model, IDS[:5])[-1], atol=CLOSE)
    member.clear(0)
    member.validate(0)
    member.validate(1)
    member.decode(1, IDS[9:])
    np.testing.assert_allclose(member.row(1, 5), expected(model, IDS[5:])[-1], atol=CLOSE)


def test_every_slot_holds_a_whole_context(model: Model) -> None:
    member = Member(model, 24, n_slots=3)
    for slot in range(3):
        member.decode(slot, (IDS * 3)[:24])
    for slot in range(3):
        member.validate(slot)
    member.close()


def test_validate_notices_what_llama_cpp_does_not_hold(member: Member) -> None:
    member.decode(0, IDS[:4])
    member.slots[0].append(5)
    with pytest.raises(EngineError, match="tiny, slot 0: expected the cache to end at 4, got 3"):
        member.validate(0)


def test_this_model_can_rewind_and_one_that_cannot_is_emptied(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama_memory_seq_rm says no, as it does for recurrent models without snapshots."""
    real = llama_cpp.llama_memory_seq_rm

    def stubborn(memory: object, slot: int, start: int, end: int) -> bool:
        return bool(real(memory, slot, start, end)) if start <= 0 else False

    monkeypatch.setattr(llama_cpp, "llama_memory_seq_rm", stubborn)
    member = Member(model, 64)
    assert not member.can_rewind
    member.decode(0, IDS[:4])
    assert member.rewind(0, 2) == 0
    assert member.slots[0] == []
    member.validate(0)
    monkeypatch.undo()
    member.close()


# ---- return codes


@pytest.mark.parametrize(
    ("code", "error"), [(1, CacheFullError), (2, Cancelled), (-1, EngineError), (-2, EngineError), (-3, EngineError)]
)
@pytest.mark.parametrize("really", [True, False])
@pytest.mark.parametrize("at", [0, 1])
def test_every_return_code_is_an_error_and_leaves_a_sound_cache(
    model: Model, member: Member, code: int, error: type[EngineError], really: bool, at: int
) -> None:
    """The failing call may have done its work or not, and may be the first or the second batch of one decode."""
    member.decode(0, IDS[:3])
    with failing_decode(at, code, really), pytest.raises(error, match="tiny: llama_decode of") as caught:
        member.decode(0, (IDS * 2)[3:14])
    assert type(caught.value) is error
    assert caught.value.code == code
    assert member.slots[0] == (IDS[:3] if code > 0 else [])
    member.validate(0)
    held = len(member.slots[0])
    member.decode(0, IDS[held:7])
    np.testing.assert_allclose(member.row(0, 7), expected(model, IDS[:7])[-1], atol=CLOSE)
    member.validate(0)


def test_rows_from_before_a_failure_are_not_given_out(member: Member) -> None:
    """llama.cpp's row buffer was overwritten by the batch that failed, also for the other slot's rows."""
    for slot in (0, 1):
        member.decode(0, IDS[:3])
        with failing_decode(0, 2), pytest.raises(Cancelled):
            member.decode(slot, [77])
        assert not member.has_row(0, len(member.slots[0]))
        member.clear(0)


def test_no_room_is_llama_cpps_own_code_1(model: Model) -> None:
    member = Member(model, 256)  # llama.cpp rounds up to this
    member.decode(0, (IDS * 26)[:250])
    with pytest.raises(CacheFullError, match="no room in a context of 256") as caught:
        member.decode(0, (IDS * 26)[:8])
    assert caught.value.code == 1
    assert len(member.slots[0]) == 250
    member.validate(0)
    member.decode(0, IDS[:6])
    member.close()


def test_more_tokens_than_a_small_context_takes_at_once(model: Model) -> None:
    """llama.cpp lowers its batch to the context's size, and a larger batch would end the process."""
    member = Member(model, 3, settings=ModelSettings(n_threads=1))
    assert member.max_rows == 3
    member.decode(0, IDS, 2)
    np.testing.assert_allclose(member.row(0, 10), expected(model, IDS)[-1], atol=1e-2)  # f16 caches
    member.close()


# ---- cancellation


def test_the_flag_stops_a_decode_and_the_slot_is_as_it_was(model: Model) -> None:
    flag = CancelFlag()
    member = Member(model, 64, cancel=flag)
    member.decode(0, IDS[:3])
    flag.set()
    assert flag.is_set()
    with pytest.raises(Cancelled) as caught:
        member.decode(0, IDS[3:])
    assert caught.value.code == 2
    assert member.slots[0] == IDS[:3]
    member.validate(0)
    flag.clear()
    assert not flag.is_set()
    member.decode(0, IDS[3:])
    np.testing.assert_allclose(member.row(0, 10), expected(model, IDS)[-1], atol=CLOSE)
    member.close()


def test_another_thread_stops_a_long_prompt(tmp_path: Path) -> None:
    """A flag set while llama.cpp computes; the prompt would take far longer than the answer to the flag may."""
    model = Model(write_model(tmp_path / "wide.gguf", seed=2, n_embd=256, n_layers=6, n_ff=1024, n_ctx=4096), SETTINGS)
    flag = CancelFlag()
    member = Member(model, 4096, cancel=flag, settings=ModelSettings(n_threads=1))
    timer = threading.Timer(0.02, flag.set)
    timer.start()
    with pytest.raises(Cancelled):
        member.decode(0, (IDS * 400)[:4000])
    timer.join()
    assert member.slots[0] == []
    member.validate(0)
    member.close()
    model.close()


# ---- making and closing


def test_a_closed_member_says_so(model: Model) -> None:
    member = Member(model, 32)
    member.decode(0, IDS[:3])
    member.close()
    member.close()
    for use in (
        lambda: member.decode(0, [1]),
        lambda: member.row(0, 3),
        lambda: member.clear(0),
        lambda: member.validate(0),
    ):
        with pytest.raises(EngineError, match="tiny"):
            use()


def test_a_context_that_cannot_be_made_gives_llama_cpps_reason(model: Model) -> None:
    with pytest.raises(EngineError, match=r"cannot make a context of 32 tokens: .*V cache") as caught:
        Member(model, 32, settings=ModelSettings(n_threads=1, type_v="q8_0", flash_attn=False))
    assert "flash attention" in caught.value.hint


def test_a_member_whose_probe_fails_frees_its_context(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[object] = []
    real = llama_cpp.llama_free

    def free(handle: object) -> None:
        freed.append(handle)
        real(handle)

    monkeypatch.setattr(llama_cpp, "llama_free", free)
    with failing_decode(0, -3), pytest.raises(EngineError, match="code -3"):
        Member(model, 32)
    assert len(freed) == 1


def test_at_least_one_core_is_found() -> None:
    assert physical_cores() >= 1
