"""Keeps the engine's process alive: loads it, replaces it when it dies or hangs, gives up when it cannot be loaded.

Knows states and lives; requests are engine.py's, one process child.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from eftlite.errors import EFTError, InputError, UnavailableError
from eftlite.server.asking import About
from eftlite.server.child import Child
from eftlite.server.protocol import Ended, FromWorker, Loaded, LoadFailed, LoadRequest, Progress

MAX_LOADS = 3  # that fail in a row
MAX_BACK_OFF_S = 30.0

log = logging.getLogger("eftlite.server.keeper")
log.addHandler(logging.NullHandler())  # quiet unless an application asks


def back_off_s(n_fruitless: int) -> float:
    """Seconds to wait after so many lives in a row in which no answer was finished; the first costs nothing."""
    return 0.0 if n_fruitless < 2 else min(2.0 ** min(n_fruitless - 3, 9), MAX_BACK_OFF_S)


def away_s(error: EFTError | None) -> int:
    """When to try again what failed because another machine is away, which may come back; 0 for other failures."""
    return error.retry_after_s if isinstance(error, UnavailableError) else 0


@dataclass
class _Life:
    """What became of one process.

    Attributes:
        loaded: it was, once.
        fruitful: an answer was finished in it.
        error: why it could not be loaded, or not go on, if it said so.
        cause: of its end, in words.
    """

    loaded: bool = False
    fruitful: bool = False
    error: EFTError | None = None
    cause: str = ""


class Keeper(ABC):
    """A process that is kept alive. Who has use for it defines what is done with its messages.

    Args:
        request: what to load.
        command: starts the process.
        hang_s, step_limit_s: see ``Child``.
        patience_s: requests are taken in for so long while it is being loaded, then no more until it is.

    Attributes:
        state, failure, about, n_restarts: see ``asking.Engine``; ``failure`` is for the operator, since llama.cpp may
            name folders there. Clients are told less.
        progress: the member that is being loaded, and how far, 0..1.
        stderr: the last lines of the process that died last, for a diagnosis; they may name folders too.
    """

    def __init__(
        self, request: LoadRequest, command: Sequence[str], hang_s: float, step_limit_s: float, patience_s: float
    ) -> None:
        self.state, self.failure = "loading", ""
        self.about: About | None = None
        self.n_restarts = 0
        self.progress = ("", 0.0)
        self.stderr: tuple[str, ...] = ()
        self._request, self._command = request, command
        self._limits_s, self._patience_s = (hang_s, step_limit_s), patience_s
        self._child: Child | None = None  # only while it is loaded
        self._patient = True
        self._patience: asyncio.TimerHandle | None = None
        self._away = ""  # the last that was told of a machine
        self._settled = asyncio.Event()  # set while nothing is being loaded
        self._life: asyncio.Task[None] | None = None

    # ---- what is done with it

    @abstractmethod
    def _loaded(self) -> None:
        """It can be asked from now on."""

    @abstractmethod
    def _heard(self, message: FromWorker) -> None:
        """It said something about a request; KeyError when there is no such request."""

    @abstractmethod
    def _died(self, cause: str) -> None:
        """Nobody will hear from it again."""

    @abstractmethod
    def _refused(self) -> None:
        """Whoever waits for it waits in vain."""

    # ---- its states

    async def start(self) -> None:
        """Start loading; returns at once."""
        self._load("loading")
        self._life = asyncio.create_task(self._live())

    async def ready(self, timeout_s: float) -> About:
        """Wait until it is loaded; UnavailableError after the time, or when it will not be."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._settled.wait(), timeout_s)
        if self.state != "ready" or self.about is None:
            raise self._unavailable()
        return self.about

    async def close(self) -> None:
        """End everything."""
        first = self.state != "closed"
        self._settle("closed")
        try:
            if self._life is not None:
                if first:  # a second cancel would stop the cleaning up of the first
                    self._life.cancel()
                await asyncio.wait([self._life])
        finally:
            self._died("was ended")
            self._refused()

    def _unavailable(self) -> UnavailableError:
        """Why it cannot be asked."""
        if self.state == "closed":
            return UnavailableError("engine: it is closed")
        if self.state == "failed":
            return UnavailableError("engine: it could not be loaded", "Whoever runs this server can see why")
        return UnavailableError("engine: it is still being loaded", "Ask again later", retry_after_s=10)

    def _load(self, state: str) -> None:
        self.state = state
        self._settled.clear()
        self._patience = asyncio.get_running_loop().call_later(self._patience_s, self._lose_patience)

    def _settle(self, state: str, failure: str = "") -> None:
        if self.state == "closed":
            return
        self.state, self.failure = state, failure
        self._patient = state == "ready"
        if self._patience is not None:
            self._patience.cancel()
        self._settled.set()

    def _lose_patience(self) -> None:
        self._patient = False
        self._refused()

    # ---- its lives

    async def _live(self) -> None:
        """One life after the other, until it is closed or cannot be loaded."""
        n_failed = n_fruitless = 0
        failure = "engine: internal error"
        try:
            while self.state != "closed":
                life = await self._one_life()
                wait_s = away_s(life.error)
                n_failed = 0 if life.loaded or wait_s else n_failed + 1
                n_fruitless = 0 if life.fruitful else n_fruitless + 1
                if n_failed == MAX_LOADS or isinstance(life.error, InputError):  # a file that is not there stays so
                    failure = str(life.error or f"engine: its process {life.cause} {n_failed} times while loading")
                    break
                self.n_restarts += 1
                await asyncio.sleep(wait_s or back_off_s(n_fruitless))
        except Exception:  # whatever it is, nobody must wait for ever
            log.exception("engine: internal error")
        self._settle("failed", failure)
        self._refused()

    async def _one_life(self) -> _Life:
        """From the start of a process to its end."""
        life = _Life()
        try:
            child = await Child.start(self._command, *self._limits_s)
        except OSError as error:
            life.cause = f"cannot be started ({error.strerror})"
            return life
        try:
            child.send(self._request)
            while (message := await child.receive()) is not None:
                self._note(message, child, life)
        except KeyError:
            child.kill("wrote of a request that there is not")
        finally:
            self._child = None
            if self.state == "ready":
                self._load("restarting")
            life.cause = await child.end()
            self.stderr = tuple(child.stderr)
            self._report(life)
            self._died(life.cause)
        return life

    def _report(self, life: _Life) -> None:
        """Tell the operator of an end and what it said of it, but once only of a machine that is away for long."""
        why = str(life.error or "")
        away = why if away_s(life.error) else ""
        if self.state != "closed" and (not away or away != self._away):
            log.warning("engine: its process %s%s", life.cause, f": {why}" if why else "")
        self._away = away

    def _note(self, message: FromWorker, child: Child, life: _Life) -> None:
        if isinstance(message, Progress):
            self.progress = message.member, message.done
        elif isinstance(message, LoadFailed):
            life.error = message.error
        elif isinstance(message, Loaded):
            life.loaded = True
            self.about, self._child = message.about, child
            self._settle("ready")
            self._loaded()
        else:
            life.fruitful |= isinstance(message, Ended) and message.error is None
            self._heard(message)
