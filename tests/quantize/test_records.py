"""Records of files: what was sealed is whole, and nothing else."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from eftlite.errors import InputError, ModelFileError
from eftlite.gguf import check
from eftlite_quantize.child import Child, Job
from eftlite_quantize.records import PREFIX, Record, digest, file_hash, is_whole, record_of, seal
from tests.tiny_gguf import write_model

RECORD = Record("1" * 64, "2" * 64, "0.5.0-dev, ggml 0.25.3 0c1e570")


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file as the quantizer writes it, sealed."""
    folder = tmp_path_factory.mktemp("sealed")
    source, target = write_model(folder / "tiny.gguf", seed=1), folder / "sealed.gguf"
    child = Child()
    try:
        for _ in child.run(Job(str(source), str(target), 7, metadata=RECORD.metadata())):
            pass
    finally:
        child.close()
    assert not is_whole(check(target))
    seal(check(target))
    return target


def test_a_sealed_file_says_how_it_was_made_and_is_whole(sealed: Path) -> None:
    header = check(sealed)
    assert record_of(header) == RECORD
    assert is_whole(header)


def test_the_hash_is_the_files_own_with_zeros_in_its_place(sealed: Path) -> None:
    data = sealed.read_bytes()
    value = str(check(sealed).metadata[PREFIX + "sha256"]).encode()
    assert data.count(value) == 1
    assert hashlib.sha256(data.replace(value, b"0" * 64)).hexdigest().encode() == value


def test_it_is_whole_wherever_it_goes(sealed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "another name.gguf"
    copy.write_bytes(sealed.read_bytes())
    assert is_whole(check(copy))


def test_no_changed_byte_goes_unseen(sealed: Path, tmp_path: Path) -> None:
    """Anywhere, the hash included; most changes of the header are refused before."""
    whole, path = sealed.read_bytes(), tmp_path / "changed.gguf"
    at = whole.index(PREFIX.encode() + b"sha256")
    draw = random.Random(1)
    for position in [*(draw.randrange(len(whole)) for _ in range(200)), *range(at, at + 100, 3), len(whole) - 1]:
        data = bytearray(whole)
        data[position] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            header = check(path)
        except ModelFileError:
            continue
        assert not is_whole(header), f"byte {position}"


@pytest.mark.parametrize("change", [-1, 1])
def test_longer_and_shorter_files_are_not_whole(sealed: Path, tmp_path: Path, change: int) -> None:
    path, whole = tmp_path / "changed.gguf", sealed.read_bytes()
    path.write_bytes(whole[:change] if change < 0 else whole + b"\0")
    try:
        header = check(path)
    except ModelFileError:
        return
    assert not is_whole(header)


def test_files_without_a_record(tmp_path: Path) -> None:
    header = check(write_model(tmp_path / "tiny.gguf", seed=1))
    assert record_of(header) is None
    assert not is_whole(header)
    with pytest.raises(ModelFileError, match="expected a record"):
        seal(header)


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    steps: list[int] = []
    assert file_hash(tmp_path / "a", tmp_path / "b", advance=steps.append) == hashlib.sha256(b"onetwo").hexdigest()
    assert steps == [3, 3]
    with pytest.raises(InputError, match="missing: cannot be read"):
        file_hash(tmp_path / "missing")
    assert digest({"a": 1, "b": (2,)}) == digest({"b": (2,), "a": 1}) != digest({"a": 1, "b": (3,)})
