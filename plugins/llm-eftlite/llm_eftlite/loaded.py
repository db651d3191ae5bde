"""Models in memory: each family is loaded at its first prompt and kept until the process ends.

``llm`` makes new model objects whenever one is asked for by name, so what is loaded is kept here, by name.
"""

from __future__ import annotations

import atexit
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from eftlite.cli.output import LoadingLine
from eftlite.settings import Family, from_options
from llm_eftlite.options import Loading

if TYPE_CHECKING:
    from eftlite import EFT


class Keeper:
    """Loaded families by name, one each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Family, Loading, EFT]] = {}

    def get(self, name: str, family: Family, loading: Loading) -> EFT:
        """The loaded family; it is loaded if it is not, or if it changed or is to be loaded in another way.

        Raises:
            EFTError: it cannot be loaded.
        """
        with self._lock:
            kept = self._kept.pop(name, None)
            if kept is not None and kept[:2] != (family, loading):
                kept[2].close()
                kept = None
            if kept is None:
                kept = (family, loading, _load(family, loading))
            self._kept[name] = kept
            return kept[2]

    def close(self) -> None:
        """Free every model."""
        with self._lock:
            while self._kept:
                self._kept.popitem()[1][2].close()


def _load(family: Family, loading: Loading) -> EFT:
    """Load a family; a terminal is told how it goes on, for it takes a while and may be a download."""
    from eftlite import EFT, ModelSettings

    atexit.unregister(KEEPER.close)
    atexit.register(KEEPER.close)  # models are to be freed before llama.cpp is torn down
    options = {name: value for name, value in asdict(loading).items() if value is not None}
    settings: dict[str, Any] = {name: options.pop(name) for name in ("n_gpu_layers", "n_threads") if name in options}
    line = LoadingLine()
    try:
        return EFT(family=family, settings=from_options(ModelSettings, settings), progress=line, **options)
    finally:
        line.clear()


KEEPER = Keeper()
