"""How fast a model reads and makes tokens, in llama-bench's sense: no tokenizing, no sampling."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from eftlite_quantize.evaluate import Evaluator
from eftlite_quantize.metrics import Figure

N_GEN = 32
REPETITIONS = 3


def speeds(evaluator: Evaluator, ids: Sequence[int]) -> dict[str, Figure]:
    """Tokens per second, mean and standard deviation of three runs: ``pp_ts`` reads ``ids``, ``tg_ts`` makes 32 tokens.

    Args:
        ids: as many tokens as the context holds, more than 32 or fewer; its first ones are those that are "made".
    """
    member, n_gen = evaluator.member, min(N_GEN, len(ids) - 1)

    def read() -> None:
        member.clear(0)
        member.decode(0, ids)

    def make() -> None:
        for token in ids[1 : n_gen + 1]:
            member.decode(0, [token])

    read()  # brings the weights into memory
    pp, tg = [], []
    for _ in range(REPETITIONS):
        pp.append(len(ids) / _seconds(read))
        member.clear(0)
        member.decode(0, ids[:1])
        tg.append(n_gen / _seconds(make))
    return {
        name: Figure(statistics.mean(found), statistics.stdev(found)) for name, found in (("pp_ts", pp), ("tg_ts", tg))
    }


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
