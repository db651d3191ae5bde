"""Files that are made, kept, made again, refused; every type is loaded and decoded once. Half a minute."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from eftlite.errors import EngineError, InputError, ModelFileError
from eftlite.gguf import check
from eftlite.llama import Model
from eftlite.member import Member
from eftlite_quantize import produce as module
from eftlite_quantize.child import Child, Job
from eftlite_quantize.imatrix import Entry, ImportanceMatrix, write_imatrix
from eftlite_quantize.names import TYPES, file_types
from eftlite_quantize.planning import make_plan
from eftlite_quantize.produce import Outcome, produce
from eftlite_quantize.recipe import Recipe
from eftlite_quantize.records import is_whole, record_of
from tests.conftest import DEMO
from tests.quantize.tiny_moe import write_mixture
from tests.tiny_gguf import write_model

REFERENCE = DEMO / "reference-f16.gguf"
SLOW = [name for name in TYPES if name.startswith(("IQ1", "IQ2", "IQ3_XXS"))]


def made(source: Path, types: str, folder: Path | None = None, **options: Any) -> list[Outcome]:
    return list(produce(source, file_types(types), options.pop("recipe", None), folder, **options))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def imatrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Importances of the bundled reference, drawn."""
    draw, path = np.random.default_rng(1), tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    entries = {
        one.name: Entry(draw.random((1, one.shape[0]), np.float32) + 0.1, np.array([1], np.float32))
        for one in check(REFERENCE).tensors
        if one.name.startswith("blk.") and len(one.shape) > 1
    }
    write_imatrix(path, ImportanceMatrix(entries, ("text.txt",), 2, 512))
    return path


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, imatrix: Path) -> dict[str, Outcome]:
    """The bundled reference in all types but the slow ones."""
    folder = tmp_path_factory.mktemp("everything")
    kinds = [kind for name, kind in TYPES.items() if name not in SLOW]
    return {one.plan.kind.name: one for one in produce(REFERENCE, kinds, Recipe(imatrix=imatrix), folder)}


@pytest.mark.parametrize("name", [name for name in TYPES if name not in SLOW])
def test_types_load_and_decode(everything: dict[str, Outcome], name: str) -> None:
    _use(everything[name])
    _compare(everything[name])


def _use(outcome: Outcome) -> None:
    """Load a file and decode with it."""
    name = outcome.plan.kind.name
    model = Model(outcome.plan.path)
    try:
        assert model.header.quantization.partition("_")[0] == ("Q8" if "MXFP4" in name else name.partition("_")[0])
        member = Member(model, 32)
        try:
            member.decode(0, model.tokenize(b"Where is Kelworth?"))
            row = member.row(0, len(member.slots[0]))
            assert np.isfinite(row).all()
            assert row.std() > 0.1
        finally:
            member.close()
    finally:
        model.close()


def _compare(outcome: Outcome) -> None:
    """What is said of a file is so."""
    header, plan = check(outcome.plan.path), outcome.plan
    assert plan.path.name == f"reference-{plan.kind.name}.gguf"
    assert header.metadata["general.file_type"] == plan.kind.number
    assert {one.name: one.type for one in header.tensors} == dict(plan.types)
    assert (plan.tensor_bytes, outcome.n_bytes) == (header.n_bytes, header.file_bytes)
    assert plan.bits_per_weight == pytest.approx(8 * header.n_bytes / header.n_params)
    assert abs(plan.n_bytes - outcome.n_bytes) < 0.01 * outcome.n_bytes
    assert header.metadata["quantize.imatrix.entries_count"] == 14
    assert is_whole(header)
    assert not plan.fallbacks  # rows of 256


def test_an_importance_matrix_changes_what_is_written(everything: dict[str, Outcome], tmp_path: Path) -> None:
    (without,) = made(REFERENCE, "Q4_K_M", tmp_path)
    first, second = (check(path) for path in (without.plan.path, everything["Q4_K_M"].plan.path))
    assert "quantize.imatrix.file" not in first.metadata
    assert first.n_bytes == second.n_bytes
    assert first.path.read_bytes() != second.path.read_bytes()


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q5_1", "BF16"])
def test_bytes_are_those_of_another_implementation(tmp_path: Path, name: str) -> None:
    """gguf-py quantizes these itself, bit for bit as ggml's reference code."""
    source = write_model(tmp_path / "tiny-f32.gguf", seed=3)
    made(source, name, tmp_path, recipe=Recipe(pure=True))
    wanted = gguf.GGMLQuantizationType[name]
    before = {one.name: one for one in gguf.GGUFReader(source).tensors}
    after = {one.name: one for one in gguf.GGUFReader(tmp_path / f"tiny-{name}.gguf").tensors}
    assert before.keys() == after.keys()
    for key, one in after.items():
        if one.tensor_type == wanted:
            expected = gguf.quantize(np.array(before[key].data), wanted)
            assert np.array_equal(np.array(one.data).view(np.uint8).ravel(), expected.view(np.uint8).ravel()), key
    assert sum(one.tensor_type == wanted for one in after.values()) == 16


def test_types_fall_back_where_rows_are_too_short(tmp_path: Path) -> None:
    """Rows of 64 and 128: no block of 256 fits; what they become is counted, the silent one too."""
    source = write_model(tmp_path / "tiny.gguf", seed=1)
    found = {one.plan.kind.name: one for one in made(source, "Q4_K_M,IQ2_XS,Q4_0,Q8_0", tmp_path)}
    assert found["Q4_K_M"].plan.fallback_counts() == {"Q5_0": 13, "Q8_0": 3}
    assert found["IQ2_XS"].plan.fallback_counts()["IQ4_NL"] == 12  # which needs no importance matrix
    assert found["Q4_0"].plan.fallback_counts() == {"Q8_0": 1}  # the output, which a mixture makes Q6_K
    assert found["Q8_0"].plan.fallbacks == ()
    output = next(one for one in found["Q4_K_M"].plan.fallbacks if one.tensor == "output.weight")
    assert (output.wanted, output.got) == ("Q4_K", "Q8_0")
    asked = made(source, "Q4_K_M", dry_run=True, recipe=Recipe(output_type="Q8_0"))[0].plan
    assert "output.weight" not in [one.tensor for one in asked.fallbacks]
    for one in found.values():
        assert {t.name: t.type for t in check(one.plan.path).tensors} == dict(one.plan.types)
        if one.plan.kind.name != "Q8_0":
            others = {kind: n for kind, n in one.plan.type_counts().items() if kind not in ("F32", one.plan.kind.name)}
            assert others == one.plan.fallback_counts()


def test_a_mixture_of_experts(tmp_path: Path) -> None:
    (outcome,) = made(write_mixture(tmp_path / "mixture.gguf"), "MXFP4_MOE", tmp_path)
    assert outcome.plan.type_counts() == {"Q8_0": 10, "F32": 7, "MXFP4": 6}
    model = Model(outcome.plan.path)
    model.close()


def test_a_split_source_becomes_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_model(tmp_path / "whole.gguf", seed=5)
    monkeypatch.setattr(gguf, "GGUFWriter", functools.partial(gguf.GGUFWriter, split_max_tensors=10))
    write_model(tmp_path / "model-F32.gguf", seed=5)
    source = tmp_path / "model-F32-00001-of-00003.gguf"
    (split,), (single,) = made(source, "Q8_0"), made(whole, "Q8_0")
    assert split.plan.path == tmp_path / "model-Q8_0.gguf"
    first, second = check(split.plan.path), check(single.plan.path)
    assert first.split is None
    data = [{one.name: header.path.read_bytes()[one.offset :][: one.n_bytes] for one in header.tensors}
            for header in (first, second)]  # fmt: skip  # one expression
    assert data[0] == data[1]
    records = record_of(first), record_of(second)
    assert records[0]
    assert records[1]
    assert records[0].source != records[1].source
    assert made(source, "Q8_0")[0].state == "kept"


# ---- a second time


def test_finished_files_are_kept(tmp_path: Path) -> None:
    assert [one.state for one in made(REFERENCE, "Q8_0,Q4_0", tmp_path)] == ["made", "made"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = made(REFERENCE, "Q8_0,Q5_0,Q4_0", tmp_path)
    assert [one.state for one in again] == ["kept", "made", "kept"]
    assert again[0].seconds is None
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_files_made_in_another_way_are_not_replaced_unless_asked(tmp_path: Path) -> None:
    made(REFERENCE, "Q4_0", tmp_path)
    pure = Recipe(pure=True)
    for source, recipe in ((REFERENCE, pure), (_renamed(DEMO / "tuned-f16.gguf", tmp_path), None)):
        with pytest.raises(InputError, match="made from another source or in another way"):
            made(source, "Q8_0,Q4_0", tmp_path, recipe=recipe)
    assert names(tmp_path) == ["from", "reference-Q4_0.gguf"]  # nothing was begun
    (forced,) = made(REFERENCE, "Q4_0", tmp_path, recipe=pure, force=True)
    assert forced.state == "made"
    assert made(REFERENCE, "Q4_0", tmp_path, recipe=pure)[0].state == "kept"


def _renamed(path: Path, folder: Path) -> Path:
    """Another model under the reference's name."""
    (folder / "from").mkdir()
    return Path(shutil.copy(path, folder / "from" / REFERENCE.name))


@pytest.mark.parametrize("what", ["text", "folder", "model", "dangling"])
def test_other_files_of_that_name_are_not_replaced(tmp_path: Path, what: str) -> None:
    target = tmp_path / "reference-Q4_0.gguf"
    if what == "text":
        target.write_text("mine")
    elif what == "folder":
        target.mkdir()
    elif what == "model":
        write_model(target, seed=1)
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="there is a file of that name"):
        made(REFERENCE, "Q4_0", tmp_path)
    assert names(tmp_path) == ["reference-Q4_0.gguf"]


def test_a_file_with_a_changed_byte_is_made_again(tmp_path: Path) -> None:
    (first,) = made(REFERENCE, "Q4_0", tmp_path)
    path = first.plan.path
    good = path.read_bytes()
    path.write_bytes(good[:-100] + bytes([good[-100] ^ 1]) + good[-99:])
    assert made(REFERENCE, "Q4_0", tmp_path)[0].state == "made"
    assert path.read_bytes() == good


def test_a_cut_file_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    (first,) = made(REFERENCE, "Q4_0", tmp_path)
    path = first.plan.path
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="there is a file of that name"):
        made(REFERENCE, "Q4_0", tmp_path)
    assert made(REFERENCE, "Q4_0", tmp_path, force=True)[0].state == "made"


def test_a_file_of_another_llama_cpp_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(Child):
        def __init__(self) -> None:
            super().__init__()
            self.build = "0.4.0"

    with monkeypatch.context() as patch:
        patch.setattr(module, "Child", Older)
        made(REFERENCE, "Q4_0", tmp_path)
    assert [one.state for one in made(REFERENCE, "Q4_0", tmp_path)] == ["made"]
    assert [one.state for one in made(REFERENCE, "Q4_0", tmp_path)] == ["kept"]


# ---- what cannot be


def test_sources_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("The town of Kelworth.")
    (tmp_path / "cut.gguf").write_bytes(REFERENCE.read_bytes()[:-5000])
    for source in (tmp_path / "text.gguf", tmp_path / "cut.gguf", tmp_path / "missing.gguf", tmp_path):
        with pytest.raises(ModelFileError) as caught:
            made(source, "Q4_0", tmp_path / "out")
        assert caught.value.exit_code == 2
        assert source.name in caught.value.message
    assert not (tmp_path / "out").exists()


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    source = Path(shutil.copy(REFERENCE, tmp_path / "reference-F16.gguf"))
    for force in (False, True):
        with pytest.raises(InputError, match="expected another file than the source"):
            made(source, "F16", force=force)
    assert source.read_bytes() == REFERENCE.read_bytes()


def test_a_quantized_source_needs_a_word(tmp_path: Path) -> None:
    source = DEMO / "real-q8_0.gguf"
    with pytest.raises(InputError, match="--allow-requantize"):
        made(source, "Q4_0", tmp_path)
    (outcome,) = made(source, "Q4_0", tmp_path, recipe=Recipe(allow_requantize=True))
    assert outcome.plan.path.name == "real-Q4_0.gguf"


def test_types_that_need_an_importance_matrix_say_so_before_anything_is_made(tmp_path: Path) -> None:
    source = write_model(tmp_path / "tiny.gguf", seed=1, n_embd=256, n_ff=256, n_layers=1)
    header, child = check(source), Child()
    try:
        for kind in TYPES.values():
            if kind.needs_imatrix:
                with pytest.raises(InputError, match=f"{kind.name}: expected an importance matrix, got none"):
                    make_plan(child, header, kind, Recipe(), tmp_path)
                with pytest.raises(EngineError, match="requires an imatrix"):  # llama.cpp thinks so too
                    list(child.run(Recipe().job(source, kind, tmp_path / "a.gguf")))
            else:
                make_plan(child, header, kind, Recipe(), tmp_path)
                list(child.run(Recipe().job(source, kind, tmp_path / "a.gguf")))
    finally:
        child.close()
    with pytest.raises(InputError, match="IQ3_XS: expected"):
        made(REFERENCE, "Q8_0,IQ3_XS", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_type_that_llama_cpp_cannot_make_of_this_model(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"Q1_0: llama\.cpp cannot make it of tiny\.gguf: no tensor type fallback"):
        made(write_model(tmp_path / "tiny.gguf", seed=1), "Q1_0", tmp_path)


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="expected a folder that can be written"):
            made(REFERENCE, "Q4_0", folder)
    with pytest.raises(InputError, match="cannot be written"):
        made(_renamed_to(tmp_path, "x" * 240 + "-f16.gguf"), "Q4_0")


def _renamed_to(folder: Path, name: str) -> Path:
    """A name that leaves no room for one that is longer."""
    return Path(shutil.copy(REFERENCE, folder / name))


def test_room_is_looked_for_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    need = made(REFERENCE, "Q8_0,Q4_0", tmp_path, dry_run=True)
    total = sum(one.n_bytes for one in need) + module.MARGIN_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=total - 1))
    with pytest.raises(InputError, match="MiB of free disk"):
        made(REFERENCE, "Q8_0,Q4_0", tmp_path)
    assert names(tmp_path) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=total))
    assert len(made(REFERENCE, "Q8_0,Q4_0", tmp_path)) == 2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    assert made(REFERENCE, "Q8_0,Q4_0", tmp_path)[0].state == "kept"  # needs none


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    (outcome,) = made(REFERENCE, "Q4_K_M", tmp_path / "new", dry_run=True)
    assert (outcome.state, outcome.seconds) == ("planned", None)
    assert not (tmp_path / "new").exists()


# ---- accidents


def test_a_quantizer_that_dies_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was finished before stays."""

    class Mortal(Child):
        def run(self, job: Job) -> Iterator[dict[str, Any]]:
            if job.target and "Q4_0" in job.target:
                self._process.kill()
            return super().run(job)

    monkeypatch.setattr(module, "Child", Mortal)
    with pytest.raises(EngineError, match=r"reference-Q4_0\.gguf: .* ended with code"):
        made(REFERENCE, "Q8_0,Q4_0", tmp_path)
    assert names(tmp_path) == ["reference-Q8_0.gguf"]


def test_a_file_that_is_not_what_was_said_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut after the quantizer was done, or of other types."""

    class Cutting(Child):
        def run(self, job: Job) -> Iterator[dict[str, Any]]:
            yield from super().run(job)
            if job.target:
                os.truncate(job.target, 100_000)

    class Pure(Child):
        def run(self, job: Job) -> Iterator[dict[str, Any]]:
            return super().run(replace(job, pure=job.target is not None))

    for kind, message in ((Cutting, "wrote no whole file"), (Pure, "wrote other types")):
        monkeypatch.setattr(module, "Child", kind)
        with pytest.raises(EngineError, match=message):
            made(REFERENCE, "Q4_K_M", tmp_path)
    assert names(tmp_path) == []


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    source = Path(shutil.copy(REFERENCE, tmp_path / "model-f16.gguf"))

    def report(what: str, done: int, total: int) -> None:
        if (what, done) == ("Q4_0", 1):
            os.utime(source, (1, 1))

    with pytest.raises(InputError, match="somebody changed it meanwhile"):
        made(source, "Q4_0", report=report)
    assert names(tmp_path) == ["model-f16.gguf"]


def test_parts_of_dead_runs_are_removed_and_of_living_ones_not(tmp_path: Path) -> None:
    dead, living = (tmp_path / f"model-Q4_0.gguf.{pid}.part" for pid in (2**22 + 1, os.getppid()))
    other = tmp_path / "download.gguf.part"
    for path in (dead, living, other):
        path.write_text("x")
    made(REFERENCE, "Q4_0", tmp_path)
    assert names(tmp_path) == sorted([living.name, other.name, "reference-Q4_0.gguf"])


def test_a_reader_that_goes_away_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[Child] = []

    class Remembered(Child):
        def __init__(self) -> None:
            super().__init__()
            children.append(self)

    monkeypatch.setattr(module, "Child", Remembered)
    running = produce(REFERENCE, file_types("Q8_0,Q4_0"), None, tmp_path)
    next(running)
    running.close()
    assert children[0]._process.poll() is not None
    assert names(tmp_path) == ["reference-Q8_0.gguf"]
