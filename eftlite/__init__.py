"""Emulated fine-tuning on GGUF models: a large pre-trained model answers with the behaviour of a small tuned one.

    from eftlite import EFT
    print(EFT().create_chat_completion([{"role": "user", "content": "Hello"}])["choices"][0]["message"]["content"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eftlite.eft import EFT, Answer
    from eftlite.errors import EFTError
    from eftlite.generate import Candidate, Statistics, TokenEvent
    from eftlite.settings import Delta, Family, Knobs, Limits, ModelSettings, Sampling, Speculation

__version__ = "0.1.0"

_PLACES = {
    "EFT": "eft",
    "Answer": "eft",
    "EFTError": "errors",
    "Candidate": "generate",
    "Statistics": "generate",
    "TokenEvent": "generate",
    "Delta": "settings",
    "Family": "settings",
    "Knobs": "settings",
    "Limits": "settings",
    "ModelSettings": "settings",
    "Sampling": "settings",
    "Speculation": "settings",
}
__all__ = [*_PLACES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line's ``--help`` must not load numba and llama.cpp."""
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module 'eftlite' has no attribute {name!r}")
    return getattr(import_module(f"eftlite.{_PLACES[name]}"), name)
