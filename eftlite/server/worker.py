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
from eftlite.errors import EFTError, UnavailableError
from eftlite.rpc import RETRY_S, greet
from eftlite.server.asking import About, MemberAbout
from eftlite.server.protocol import BEAT_S, Beat, FromWorker, Loaded, LoadFailed, LoadRequest, Progress
from eftlite.server.turns import Send, Turns
from eftlite.server.wire import decode, encode
from eftlite.settings import Family

if TYPE_CHECKING:
    from eftlite.eft import EFT


class Pulse:
    """Tells that the process lives, and what it is doing.

    Args:
        send: tells the server.
        turns: whose steps are counted.
    """

    def __init__(self, send: Send, turns: Turns) -> None:
        self._send, self._turns = send, turns
        self._phase, self._n_reports = "importing", 0
        self._eft: EFT | None = None

    def beat(self) -> NoReturn:
        """Tell, again and again; for a thread of its own."""
        while True:
            self.tell()
            time.sleep(BEAT_S)

    def tell(self) -> None:
        """Tell now."""
        if self._eft is None:
            self._send(Beat(self._n_reports, 0.0, self._phase))
            return
        seconds = [member.seconds for member in self._eft._engine.ensemble.members]  # noqa: SLF001  # no public word
        self._send(Beat(self._turns.n_steps, sum(seconds), "idle" if self._turns.idle else "answering"))

    def loading(self) -> None:
        """The family's loading gets on; the first time, Python's modules are there."""
        self._n_reports += 1
        if self._phase == "importing":
            self._phase = "loading"
            self.tell()

    def loaded(self, eft: EFT) -> None:
        """Answers can be made."""
        self._eft = eft
        self.tell()


# ---- loading


def load(request: LoadRequest, send: Send, pulse: Pulse) -> EFT:
    """What the request names, told of while it is read."""
    if isinstance(request.family, Family):
        for endpoint in request.family.rpc:  # tried again and again while one is away, so before anything heavy
            greet(endpoint)
    from eftlite.eft import EFT
    from eftlite.remote import when_lost

    when_lost(lambda message: send(LoadFailed(UnavailableError(message, retry_after_s=RETRY_S))))
    pulse.loading()
    told = ("", 0.0)

    def report(member: str, done: float) -> None:
        nonlocal told
        pulse.loading()
        if member != told[0] or done >= min(told[1] + 0.01, 1.0):  # llama.cpp reports every tensor
            told = (member, done)
            send(Progress(member, done))

    return EFT(**vars(request), progress=report)


def about(eft: EFT) -> About:
    """What was loaded, for people and clients."""
    from eftlite.llama import BINDING_VERSION, build, devices

    loaded = eft._engine.ensemble.members  # noqa: SLF001  # nor for these
    members = [
        MemberAbout(one.name, " + ".join(one.files), m.description, m.n_params, m.n_bytes, m.n_ctx_train)
        for one, m in ((one, one.model) for one in loaded)
    ]
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
        bos=eft.template.bos,
        eos=eft.template.eos,
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
    pulse.loaded(eft)
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
