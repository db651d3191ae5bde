"""Model files that Ollama or LM Studio fetched already, so that nobody fetches them twice.

Knows where those programs keep files; whether a file found here is the right one, its hash will say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def candidates(repo: str, name: str, hash_: str) -> Iterator[Path]:
    """Where the contents of a hub's file may be: by hash in Ollama's store, by name in LM Studio's."""
    for folder in (os.environ.get("OLLAMA_MODELS"), "~/.ollama/models", "/usr/share/ollama/.ollama/models"):
        if folder and len(hash_) == 64:
            yield Path(folder).expanduser() / "blobs" / f"sha256-{hash_}"
    for folder in ("~/.lmstudio/models", "~/.cache/lm-studio/models"):
        yield Path(folder).expanduser() / repo / name
