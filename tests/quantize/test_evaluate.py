"""The evaluator: its rows are those of single decodes, in order, whatever the pieces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eftlite.errors import ContextError, InputError, ModelFileError
from eftlite.member import MAX_ROWS, Member
from eftlite.settings import ModelSettings
from eftlite_quantize.evaluate import Evaluator
from tests.tiny_gguf import write_model

N_CTX = 160
NEAR = 0.03  # llama.cpp computes other batches in another order; rows of other positions differ by several units


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluator]:
    """A tiny model."""
    with Evaluator(write_model(tmp_path_factory.mktemp("m") / "m.gguf", seed=1), N_CTX) as evaluator:
        yield evaluator


@pytest.mark.parametrize("first", [0, 1, 63, 64, 80, N_CTX - 2])
@pytest.mark.parametrize("n", [N_CTX, N_CTX - 1])
def test_rows_are_those_of_single_decodes(evaluator: Evaluator, first: int, n: int) -> None:
    ids = np.random.default_rng(0).integers(0, 500, n).astype(np.int32)
    pieces = [piece.copy() for piece in evaluator.rows(ids, first)]
    rows = np.concatenate(pieces)
    assert rows.shape == (n - first, evaluator.n_vocab)
    assert all(len(piece) == MAX_ROWS for piece in pieces[:-1])
    member = Member(evaluator.model, N_CTX)
    for position in {first, (first + n) // 2, n - 1}:
        member.clear(0)
        member.decode(0, ids[: position + 1].tolist())
        np.testing.assert_allclose(rows[position - first], member.row(0, position + 1), atol=NEAR)
    member.close()


def test_each_text_begins_afresh(evaluator: Evaluator) -> None:
    texts = [list(range(i, i + 40)) for i in (0, 100, 0)]
    first, _, again = ([piece.copy() for piece in evaluator.rows(ids, 20)] for ids in texts)
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(again))


def test_a_text_given_up_halfway_does_no_harm(evaluator: Evaluator) -> None:
    whole = [piece.copy() for piece in evaluator.rows(list(range(150)), 10)]
    next(evaluator.rows(list(range(50, 150)), 0))
    again = [piece.copy() for piece in evaluator.rows(list(range(150)), 10)]
    np.testing.assert_array_equal(np.concatenate(whole), np.concatenate(again))


def test_rows_are_views_that_cannot_be_written(evaluator: Evaluator) -> None:
    (piece,) = evaluator.rows(list(range(30)), 10)
    assert not piece.flags.owndata
    assert not piece.flags.writeable
    assert piece.flags.c_contiguous


def test_rows_that_do_not_lie_side_by_side_are_put_there(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.concatenate([piece.copy() for piece in evaluator.rows(list(range(30)), 10)])
    row = Member.row
    monkeypatch.setattr(Member, "row", lambda self, slot, n: row(self, slot, n).copy())
    (piece,) = evaluator.rows(list(range(30)), 10)
    np.testing.assert_array_equal(piece, expected)


def test_small_batches_give_the_same_rows(evaluator: Evaluator) -> None:
    ids = list(range(100))
    expected = np.concatenate([piece.copy() for piece in evaluator.rows(ids, 50)])
    settings = ModelSettings(n_batch=16, n_ubatch=8)
    with Evaluator(evaluator.model.path, N_CTX, settings) as small:
        pieces = [piece.copy() for piece in small.rows(ids, 50)]
    assert {len(piece) for piece in pieces} == {16, 2}
    np.testing.assert_allclose(np.concatenate(pieces), expected, atol=NEAR)


def test_impossible_texts_are_refused(evaluator: Evaluator) -> None:
    with pytest.raises(ContextError, match="at most 160 tokens, got 161"):
        next(evaluator.rows(list(range(161)), 0))
    for ids, first in ((list(range(5)), 5), (list(range(5)), -1), ([], 0)):
        with pytest.raises(InputError, match="expected a position"):
            next(evaluator.rows(ids, first))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_text("no")
    with pytest.raises(ModelFileError):
        Evaluator(tmp_path / "x.gguf", 64)
