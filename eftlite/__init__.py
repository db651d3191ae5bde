"""Emulated fine-tuning on GGUF models: a large pre-trained model answers with the behaviour of a small tuned one.

from eftlite import EFT
print(EFT().create_chat_completion([{"role": "user", "content": "Hello"}])["choices"][0]["message"]["content"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eftlite.answer import Answer as Answer
    from eftlite.eft import EFT as EFT
    from eftlite.errors import EFTError as EFTError
    from eftlite.events import Candidate as Candidate
    from eftlite.events import Statistics as Statistics
    from eftlite.events import TokenEvent as TokenEvent
    from eftlite.settings import Delta as Delta
    from eftlite.settings import Family as Family
    from eftlite.settings import Knobs as Knobs
    from eftlite.settings import Limits as Limits
    from eftlite.settings import ModelSettings as ModelSettings
    from eftlite.settings import Sampling as Sampling
    from eftlite.settings import Speculation as Speculation

__version__ = "0.1.0"

_PLACES = {
    "EFT": "eft",
    "Answer": "answer",
    "EFTError": "errors",
    "Candidate": "events",
    "Statistics": "events",
    "TokenEvent": "events",
    "Delta": "settings",
    "Family": "settings",
    "Knobs": "settings",
    "Limits": "settings",
    "ModelSettings": "settings",
    "Sampling": "settings",
    "Speculation": "settings",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command line's ``--help`` must not load numba and llama.cpp."""
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module 'eftlite' has no attribute {name!r}")
    return getattr(import_module(f"eftlite.{_PLACES[name]}"), name)
