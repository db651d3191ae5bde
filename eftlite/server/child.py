"""The engine's process, seen from the server: started, fed, read, watched, ended.

Knows one process and its messages; never requests or what follows its death. No threads but asyncio's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import eftlite
from eftlite.server.protocol import BEAT_S, Beat, LoadRequest, ToWorker
from eftlite.server.wire import MAX_LINE_BYTES, decode, encode

# Like `python -m`, but this very package is run, and the folder we are started in is not searched: a numpy.py lying
# there is not ours.
_BOOT = (
    "import sys; folder = sys.argv[1]; sys.path[:] = [folder, *filter(None, sys.path)]; import eftlite; "
    "sys.path[:] = [*sys.path[1:], folder]; from eftlite.server.worker import main; main()"
)
_IMPORT_LIMIT_S = 60.0  # llama.cpp's libraries can come from a slow disk, and Python's threads wait meanwhile
_DYING_LIMIT_S = 1.0  # from the end of its output to its own
_REAP_LIMIT_S = 5.0  # for a process that cannot even be killed, since its disk or driver does not answer
_N_LINES, _N_CHARS = 50, 500


def worker_command() -> list[str]:
    """What starts the engine's process."""
    return [sys.executable, "-c", _BOOT, str(Path(eftlite.__file__).parents[1])]


class Child:
    """One process of the engine; ``start`` makes it.

    Args:
        process: with three pipes.
        hang_s: it has hung when it says nothing for so long …
        step_limit_s: … or when what it does does not get on for so long.

    Attributes:
        pid: its number.
        stderr: the last lines it wrote there, for a diagnosis.
    """

    def __init__(self, process: asyncio.subprocess.Process, hang_s: float, step_limit_s: float) -> None:
        self.pid = process.pid
        self.stderr: deque[str] = deque(maxlen=_N_LINES)
        self._process = process
        self._hang_s, self._step_limit_s = hang_s, step_limit_s
        self._beat = Beat(0, 0.0, "importing")
        # Counted in our own ticks: a computer that slept, or a server that was busy, is no sign of the child's.
        self._silent_s = self._stuck_s = 0.0
        self._fault = ""
        self._draining = asyncio.ensure_future(self._drain())
        self._tasks = (self._draining, asyncio.ensure_future(self._watch()))

    @classmethod
    async def start(cls, command: Sequence[str], hang_s: float, step_limit_s: float) -> Child:
        """Start it; OSError when the system cannot."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, limit=MAX_LINE_BYTES
        )
        return cls(process, hang_s, step_limit_s)

    # ---- messages

    def send(self, message: LoadRequest | ToWorker) -> None:
        """Send a message, or nothing if it is dead, which ``receive`` will tell."""
        self.send_line(encode(message))

    def send_line(self, line: bytes) -> None:
        """Send a message that was encoded before."""
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(line)

    async def receive(self) -> Any:
        """The next message; None when the process has ended, or was ended because of what it wrote."""
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
                if not line.endswith(b"\n"):
                    return None
                message = decode(line)
            except ValueError:  # no message, or a line without end
                self.kill("wrote what is no message")
                return None
            if not isinstance(message, Beat):
                return message
            self._felt(message)

    # ---- its life

    def _felt(self, beat: Beat) -> None:
        if beat != self._beat or beat.doing == "idle":
            self._stuck_s = 0.0
        self._beat, self._silent_s = beat, 0.0

    async def _watch(self) -> None:
        """End the process when it hangs."""
        while not self._fault:
            await asyncio.sleep(BEAT_S)
            self._silent_s += BEAT_S
            self._stuck_s += BEAT_S
            grace_s = _IMPORT_LIMIT_S if self._beat.doing == "importing" else 0.0
            hang_s, step_limit_s = max(self._hang_s, grace_s), max(self._step_limit_s, grace_s)
            if self._silent_s > hang_s:
                self.kill(f"did not answer for {hang_s:g} s")
            elif self._stuck_s > step_limit_s:
                self.kill(f"did not get on for {step_limit_s:g} s")

    async def _drain(self) -> None:
        """Keep the last lines of its stderr, however long they are."""
        assert self._process.stderr is not None
        rest = ""
        while data := await self._process.stderr.read(4096):
            *lines, rest = (rest + data.decode("utf-8", "replace")).split("\n")
            self.stderr.extend(line[:_N_CHARS] for line in lines)
            rest = rest[:_N_CHARS]
        if rest:
            self.stderr.append(rest)

    def kill(self, fault: str = "") -> None:
        """End the process, because of a fault that ``end`` shall tell."""
        self._fault = self._fault or fault
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> str:
        """Make sure that the process has ended and leave nothing of it; returns why it did, in words."""
        assert self._process.stdout is not None
        try:
            # One that is dying must not be killed: subprocess would look after it then, and asyncio miss its code.
            if not self._process.stdout.at_eof() or not await self._is_gone(_DYING_LIMIT_S):
                self.kill()
                await self._is_gone(_REAP_LIMIT_S)
        finally:
            for task in self._tasks:
                task.cancel()
        return self._fault or _cause(self._process.returncode)

    async def _is_gone(self, limit_s: float) -> bool:
        try:
            await asyncio.wait_for(self._last_words(), limit_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def _last_words(self) -> None:
        """Read what is left in the pipes, so that asyncio closes them, and take leave."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        while await self._process.stdout.read(1 << 20):
            pass
        await asyncio.wait([self._draining])
        await self._process.wait()


def _cause(code: int | None) -> str:
    if code is None:
        return "cannot be ended"
    if code >= 0:
        return f"ended (exit code {code})"
    try:
        return f"died ({signal.Signals(-code).name})"
    except ValueError:  # a real-time signal has no name
        return f"died (signal {-code})"
