"""The quantizer's process, seen from outside: started, given jobs, read, ended. The process itself is quantizer.py.

llama.cpp's quantizer has no way to be stopped and ends the process when it meets what it did not expect, so it runs in
one that may die. Both sides speak JSON lines: a job goes in; what happens to it comes out, ``done`` or ``failed`` last.

Not guaranteed: anything about the file that was written; the caller looks at it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from eftlite.errors import EngineError

# Like `python -m`, but the folder we are started in is not searched: a numpy.py lying there is not ours.
_BOOT = "import sys; sys.path[:] = filter(None, sys.path); from eftlite_quantize.quantizer import main; main()"
_END_S = 10.0


@dataclass(frozen=True)
class Job:
    """One call of ``llama_model_quantize``.

    Attributes:
        source: a GGUF file, the first of a split model.
        target: the file to write; None only tells what would be written.
        file_type: llama.cpp's number.
        threads: 0 takes all.
        imatrix: a file of importances, or None.
        tensor_types: patterns of tensors' names and ggml's numbers for them.
        output_type, embedding_type: ggml's numbers, or None.
        metadata: keys to be written into the file, texts or whole numbers.
    """

    source: str
    target: str | None
    file_type: int
    threads: int = 0
    imatrix: str | None = None
    tensor_types: tuple[tuple[str, int], ...] = ()
    output_type: int | None = None
    embedding_type: int | None = None
    pure: bool = False
    leave_output: bool = False
    allow_requantize: bool = False
    metadata: dict[str, str | int] = field(default_factory=dict)


class Child:
    """The process; ``close`` leaves nothing of it.

    Attributes:
        build: llama.cpp's version.

    Raises:
        EngineError: it did not start.
    """

    def __init__(self) -> None:
        self._said = "it said nothing"  # the last that it wrote and was no message: why it died, if it did
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and script
            [sys.executable, "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            self.build: str = next(self._messages())["build"]
        except BaseException:
            self.close()
            raise

    def run(self, job: Job) -> Iterator[dict[str, Any]]:
        """Do a job; what happens, as it happens.

        Yields:
            ``{"tensor": name, "index": n, "count": n, "type": name or None}`` and
            ``{"fallback": name, "wanted": type, "got": type}``.

        Raises:
            EngineError: llama.cpp failed, or the process died.
        """
        self._send(json.dumps(asdict(job)))
        for message in self._messages():
            if "failed" in message:
                raise EngineError(message["failed"])
            if "done" in message:
                return
            yield message

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is dead, and reading will tell of what
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def _messages(self) -> Iterator[dict[str, Any]]:
        """Messages until the process ends, which is an error."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"{"):
                yield json.loads(line)
            elif line.strip():
                self._said = line.decode("utf-8", "replace").strip()
        raise EngineError(f"the quantizer's process ended with code {self._process.wait()}: {self._said}")

    def close(self) -> None:
        """End the process; a second time does nothing."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # a job that it will never read
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # its disk does not answer
            self._process.wait(_END_S)
