"""What answers took, in numbers: several answers together, and one under llama-server's names.

Knows statistics; never requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from eftlite.events import DraftStatistics, Statistics

K = TypeVar("K")
N = TypeVar("N", int, float)


def timings(statistics: Statistics) -> dict[str, Any]:
    """Speeds under llama-server's names: cached and evaluated tokens of the prompt, and decoded ones."""
    n_prompt, n_decoded = statistics.n_prompt - statistics.n_reused, statistics.n_tokens
    prompt_ms, decode_ms = statistics.prompt_s * 1e3, statistics.decode_s * 1e3
    return {
        "cache_n": statistics.n_reused,
        "prompt_n": n_prompt,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / n_prompt if n_prompt else 0.0,
        "prompt_per_second": n_prompt / statistics.prompt_s if statistics.prompt_s else 0.0,
        "predicted_n": n_decoded,
        "predicted_ms": decode_ms,
        "predicted_per_token_ms": 1e3 / statistics.tokens_per_s if statistics.tokens_per_s else 0.0,
        "predicted_per_second": statistics.tokens_per_s,
    }


def total(parts: Sequence[Statistics]) -> Statistics:
    """What several answers took together; the shift is the mean over their tokens."""
    if len(parts) == 1:
        return parts[0]
    shifts = [(part.shift, part.n_tokens) for part in parts if part.shift is not None]
    n_shifted = sum(n for _, n in shifts)
    drafts = [part.drafts for part in parts if part.drafts is not None]
    return Statistics(
        n_prompt=sum(part.n_prompt for part in parts),
        n_reused=sum(part.n_reused for part in parts),
        n_tokens=sum(part.n_tokens for part in parts),
        n_end_tokens=sum(part.n_end_tokens for part in parts),
        prompt_s=sum(part.prompt_s for part in parts),
        decode_s=sum(part.decode_s for part in parts),
        member_s=_sums([part.member_s for part in parts]),
        shift=sum(shift * n for shift, n in shifts) / n_shifted if n_shifted else None,
        finish_reason=parts[-1].finish_reason,
        speculation=parts[-1].speculation,
        drafts=_all_drafts(drafts) if drafts else None,
    )


def _all_drafts(parts: Sequence[DraftStatistics]) -> DraftStatistics:
    depth = max(len(part.tried_at) for part in parts)
    return DraftStatistics(
        n_rounds=sum(part.n_rounds for part in parts),
        n_drafted=sum(part.n_drafted for part in parts),
        n_accepted=sum(part.n_accepted for part in parts),
        lengths=_sums([part.lengths for part in parts]),
        accepted_at=[sum(sum(part.accepted_at[i : i + 1]) for part in parts) for i in range(depth)],
        tried_at=[sum(sum(part.tried_at[i : i + 1]) for part in parts) for i in range(depth)],
    )


def _sums(parts: Sequence[dict[K, N]]) -> dict[K, N]:
    """Sums by key."""
    sums: dict[K, N] = {}
    for part in parts:
        for key, value in part.items():
            sums[key] = sums[key] + value if key in sums else value
    return sums
