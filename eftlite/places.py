"""Folders of the user's: what may be lost (cache), what must not (state), and what the user writes (config)."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """For what can be made again: EFTLITE_CACHE_DIR, or the user's cache folder."""
    from platformdirs import user_cache_path

    own = os.environ.get("EFTLITE_CACHE_DIR")
    return Path(own) if own else user_cache_path("eftlite", appauthor=False)


def state_folder() -> Path:
    """For what a person made: EFTLITE_STATE_DIR, or the user's state folder."""
    from platformdirs import user_state_path

    own = os.environ.get("EFTLITE_STATE_DIR")
    return Path(own) if own else user_state_path("eftlite", appauthor=False)


def config_folder() -> Path:
    """For what a person writes by hand: EFTLITE_CONFIG_DIR, or the user's config folder."""
    from platformdirs import user_config_path

    own = os.environ.get("EFTLITE_CONFIG_DIR")
    return Path(own) if own else user_config_path("eftlite", appauthor=False)
