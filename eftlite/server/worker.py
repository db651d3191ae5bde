"""The engine's process: loads a family and makes answers, asked for and told of on a pipe.

Four threads. The main one decodes, a step of each answer in turn. One reads messages, so that a stop reaches
llama.cpp inside a decode; it ends the process when the pipe is closed, for then the server is gone. One tells four
times a second that the process lives. One does what needs no decoding and need not wait for it.

Knows how the process lives and ends; answers are turns.py's. Never HTTP, clients or queues.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from typing import IO, TYPE_CHECKING, NoReturn

from eftlite import __version__
from eftlite.errors import EFTError
from eftlite.server.asking import About, MemberAbout
from eftlite.server.protocol import BEAT_S, Beat, FromWorker, Loaded, LoadFailed, LoadRequest, Progress
from eftlite.server.turns import Send, Turns
from eftlite.server.wire import decode, encode

if TYPE_CHECKING:
    from eftlite.eft import EFT


class Pulse:
    """What the heartbeat tells.

    Attributes:
        n_reports: of loading.
        eft: while it is None, Python's modules or the family are being loaded.
    """

    def __init__(self, send: Send, turns: Turns) -> None:
        self.loading, self.n_reports = False, 0
        self.eft: EFT | None = None
        self._send, self._turns = send, turns

    def beat(self) -> NoReturn:
        """Tell, again and again; for a thread of its own."""
        while True:
            self._send(self._beat())
            time.sleep(BEAT_S)

    def _beat(self) -> Beat:
        if self.eft is None:
            return Beat(self.n_reports, 0.0, "loading" if self.loading else "importing")
        seconds = [member.seconds for member in self.eft._engine.ensemble.members]  # noqa: SLF001  # no public word
        return Beat(self._turns.n_steps, sum(seconds), "idle" if self._turns.idle else "answering")


# ---- loading


def load(request: LoadRequest, send: Send, pulse: Pulse) -> EFT:
    """What the request names, told of while it is read."""
    from eftlite.eft import EFT

    pulse.loading = True
    told = ("", 0.0)

    def report(member: str, done: float) -> None:
        nonlocal told
        pulse.n_reports += 1
        if member != told[0] or done >= min(told[1] + 0.01, 1.0):  # llama.cpp reports every tensor
            told = (member, done)
            send(Progress(member, done))

    return EFT(**vars(request), progress=report)


def about(eft: EFT) -> About:
    """What was loaded, for people and clients."""
    from eftlite.llama import BINDING_VERSION, build, devices

    models = eft._engine.models  # noqa: SLF001  # nor has this
    members = [MemberAbout(m.name, m.path.name, m.description, m.n_params, m.n_bytes, m.n_ctx_train) for m in models]
    return About(
        family=eft.family.name,
        members=tuple(members),
        deltas=tuple(delta.name for delta in eft.family.deltas),
        knobs=eft.knobs,
        speculation=eft.speculation,
        n_ctx=eft.n_ctx,
        n_vocab=eft.n_vocab,
        n_slots=eft.n_slots,
        template=eft.template.source,
        notes=eft.notes,
        build={
            "eftlite": __version__,
            "llama-cpp-python": BINDING_VERSION,
            "llama.cpp": build(),
            "devices": ", ".join(device["name"] for device in devices()),
        },
    )


# ---- the process


def main() -> NoReturn:
    """Serve the pipe on stdin and stdout until it is closed."""
    try:
        _serve()
    except BaseException:  # noqa: BLE001  # nobody is left to catch it, and the other threads must not go on alone
        traceback.print_exc()
    _end(1)


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C in a terminal is meant for the server, which ends us
    _prepare_for_crashes()
    incoming, send = sys.stdin.buffer, _sender(_own_stdout())
    request = decode(incoming.readline())
    turns = Turns(send)
    pulse = Pulse(send, turns)
    for serve in (pulse.beat, turns.serve_calls, lambda: _read(incoming, turns)):
        threading.Thread(target=serve, daemon=True).start()
    try:
        eft = load(request, send, pulse)
        loaded = Loaded(about(eft))
    except EFTError as error:
        send(LoadFailed(error))
        return
    turns.use(eft)
    pulse.eft = eft
    send(loaded)
    turns.run()


def _read(incoming: IO[bytes], turns: Turns) -> NoReturn:
    """Take messages as they come, and end the process with the last one, whatever it is doing."""
    try:
        for line in incoming:
            turns.take(decode(line))
    except BaseException:  # noqa: BLE001  # as in main
        traceback.print_exc()
    _end(0)


def _sender(outgoing: IO[bytes]) -> Send:
    def send(message: FromWorker) -> None:
        try:
            outgoing.write(encode(message))  # one call, so that the lines of several threads stay whole
            outgoing.flush()
        except OSError:  # the server is gone
            _end(0)

    return send


def _own_stdout() -> IO[bytes]:
    """The pipe to the server, for us alone: whatever a library prints goes to stderr from now on."""
    own = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(own, "wb")


def _prepare_for_crashes() -> None:
    """A crash tells where it happened, and is over at once."""
    faulthandler.enable()
    os.environ["GGML_NO_BACKTRACE"] = "1"  # llama.cpp would start a debugger on a process of many GiB
    if sys.platform != "win32":
        import resource  # POSIX only

        # No core file of many GiB. With 0, Linux would still feed a program that collects them.
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (1 if hard else 0, hard))


def _end(code: int) -> NoReturn:
    """End the process now: there is nothing to save, and Python's own end would wait for a decode."""
    os._exit(code)
