"""A task's generation arguments, as the harness writes them -> eftlite's settings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs

from eftlite import Limits, Sampling

# The harness's words, which are transformers', for eftlite's.
_SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repeat_penalty",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
}
_NO_FILTER: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
_READ = {"until", "max_gen_toks", "do_sample", *_SAMPLING}
_log = logging.getLogger(__name__)


def settings_of(arguments: Mapping[str, Any], default_max_tokens: int) -> tuple[Sampling, Limits]:
    """How a request's tokens are drawn, and where its answer ends; greedy unless the task samples.

    What eftlite has no word for, beam search for example, is named in a warning.
    """
    given = normalize_gen_kwargs(dict(arguments), default_max_tokens)
    sampling = {ours: given[theirs] for theirs, ours in _SAMPLING.items() if given.get(theirs) is not None}
    if not given["do_sample"]:
        sampling = {**sampling, "temperature": 0.0}
    unread = sorted(set(given) - _READ)
    if unread:
        _log.warning("generation arguments without a meaning here: %s", ", ".join(unread))
    stops = tuple(text for text in given["until"] if text)
    return Sampling(**{**_NO_FILTER, **sampling}), Limits(given["max_gen_toks"], stops)
