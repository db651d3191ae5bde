"""What decides the bytes of a quantized file beside its source, and whether it can be followed for a model.

llama.cpp finds out late, some of it by ending the process: a type that does not divide a tensor's rows, a matrix of
another model, a tensor that it must not make without one. All of that is looked at here, before anything is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from eftlite.errors import InputError
from eftlite.gguf import Header
from eftlite.gguf_types import TensorInfo, shown
from eftlite_quantize.child import Job
from eftlite_quantize.imatrix import ImportanceMatrix, read_imatrix
from eftlite_quantize.names import BLOCKS, EMBEDDINGS, FLOATS, OUTPUT, TENSOR_NUMBERS, FileType, requires_imatrix
from eftlite_quantize.records import Record, digest, file_hash

_ADVICE = "Give one with --imatrix; `eftlite quantize imatrix` computes it from a text"
_OTHER_MODEL = "It was computed on another model"


@dataclass(frozen=True)
class Recipe:
    """How tensors are made.

    Attributes:
        tensor_types: patterns of tensors' names and the types that they get; the first that is found in a name counts.
        output_type, embedding_type: types of the output and the token embeddings.
        pure: one type for all tensors, no mixture.
        leave_output: the output keeps the source's type.
        allow_requantize: tensors that are quantized already may be quantized again.
        imatrix: a file of importances.
    """

    tensor_types: tuple[tuple[str, str], ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    leave_output: bool = False
    allow_requantize: bool = False
    imatrix: Path | None = None

    @cached_property
    def importances(self) -> ImportanceMatrix | None:
        """What is in the file; InputError when it is no importance matrix."""
        return read_imatrix(self.imatrix) if self.imatrix else None

    @cached_property
    def _imatrix_hash(self) -> str | None:
        return file_hash(self.imatrix) if self.imatrix else None

    def digest(self, kind: FileType) -> str:
        """A hash of all that decides the bytes of a file of this type."""
        return digest(
            {
                "type": kind.name,
                "tensor_types": self.tensor_types,
                "output_type": self.output_type,
                "embedding_type": self.embedding_type,
                "pure": self.pure,
                "leave_output": self.leave_output,
                "imatrix": self._imatrix_hash,
            }
        )

    def job(
        self, source: Path, kind: FileType, target: Path | None, threads: int = 0, record: Record | None = None
    ) -> Job:
        """The job for the process; without a target it only tells what would be made."""
        return Job(
            source=str(source),
            target=None if target is None else str(target),
            file_type=kind.number,
            threads=threads,
            imatrix=str(self.imatrix) if self.imatrix else None,
            tensor_types=tuple((pattern, TENSOR_NUMBERS[name]) for pattern, name in self.tensor_types),
            output_type=TENSOR_NUMBERS[self.output_type] if self.output_type else None,
            embedding_type=TENSOR_NUMBERS[self.embedding_type] if self.embedding_type else None,
            pure=self.pure,
            leave_output=self.leave_output,
            allow_requantize=self.allow_requantize,
            metadata={} if record is None else {**self._imatrix_metadata(), **record.metadata()},
        )

    def _imatrix_metadata(self) -> dict[str, str | int]:
        """The keys that llama-quantize writes; the file's name, not its path, since models get published."""
        found = self.importances
        if found is None or self.imatrix is None:
            return {}
        values = {
            "file": self.imatrix.name,
            "dataset": found.datasets[0] if found.datasets else None,
            "entries_count": len(found.entries),
            "chunks_count": found.n_chunks or None,
        }
        return {f"quantize.imatrix.{name}": value for name, value in values.items() if value is not None}

    # ---- whether it can be followed

    def check(self, header: Header) -> None:
        """Raise InputError for what does not fit the source, whatever the type."""
        names = [one.name for one in header.tensors]
        if self.importances is not None and not self.importances.entries.keys() & set(names):
            raise InputError(f"--imatrix: none of its entries is a tensor of {header.path.name}", _OTHER_MODEL)
        for pattern, _ in self.tensor_types:
            try:
                found = any(re.search(pattern, name) for name in names)
            except re.error as error:
                raise InputError(f"--tensor-type: expected a pattern, got {pattern!r} ({error})") from None
            if not found:
                raise InputError(f"--tensor-type: {header.path.name} has no tensor like {pattern!r}")
        for one in header.tensors:
            wanted = self._own_type(one)
            if wanted is not None and one.shape[0] % BLOCKS[wanted].block_size:
                size = BLOCKS[wanted].block_size
                raise InputError(f"{one.name}: expected rows of a multiple of {size} for {wanted}, got {one.shape[0]}")

    def _own_type(self, tensor: TensorInfo) -> str | None:
        """The type that an option of its own asks for, which llama.cpp takes without looking."""
        if tensor.name in EMBEDDINGS:
            return self.embedding_type
        return self.output_type if tensor.name == OUTPUT and not self.leave_output else None

    def names(self, tensor: str) -> bool:
        """Whether an option gives this tensor, the output or the embeddings, a type of its own."""
        if self.output_type or (tensor != OUTPUT and self.embedding_type):
            return True
        return any(re.search(pattern, tensor) for pattern, _ in self.tensor_types)

    def check_types(self, header: Header, kind: FileType, types: Mapping[str, str]) -> None:
        """Raise InputError for what llama.cpp will refuse, or do badly, given the types it wants to make.

        Args:
            types: of all tensors, by name.
        """
        for one in header.tensors:
            wanted = types[one.name]
            if wanted == one.type:
                continue
            if one.type not in FLOATS and not self.allow_requantize:
                raise InputError(
                    f"{shown(header.path.name)}: expected F32, F16 or BF16 weights, got {one.type} in {one.name}",
                    "Quantize the original; --allow-requantize loses more than it need",
                )
            self._check_importance(one, wanted, kind)

    def _check_importance(self, tensor: TensorInfo, wanted: str, kind: FileType) -> None:
        """Whether the matrix has what this tensor needs, and is of this model."""
        entries = self.importances.entries if self.importances else {}
        entry = entries.get(tensor.name)
        if entry is None and requires_imatrix(tensor.name, wanted, kind.name):
            got = "none" if self.importances is None else f"one without {tensor.name}"
            raise InputError(f"{kind.name}: expected an importance matrix, got {got}", _ADVICE)
        n_needed = tensor.shape[0] * (tensor.shape[2] if len(tensor.shape) > 2 else 1)
        # Of the embeddings nobody computes one; llama.cpp goes without.
        if entry is not None and entry.sums.size != n_needed and tensor.name not in EMBEDDINGS:
            message = f"--imatrix: expected {n_needed} numbers for {tensor.name}, got {entry.sums.size}"
            raise InputError(message, _OTHER_MODEL)
