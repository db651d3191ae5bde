"""What the server has done and does, for Prometheus, under llama-server's names where it has one.

Knows the engine's interface and statistics; the text format is prometheus_client's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from eftlite.events import DraftStatistics, Statistics
from eftlite.server.asking import Engine
from eftlite.server.figures import total

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


@dataclass
class Totals:
    """What all answers together took.

    Attributes:
        n_answers: that were finished or stopped; one whose client left is not counted, nor are its tokens.
        taken: their sum.
    """

    n_answers: int = 0
    taken: Statistics = field(default_factory=Statistics)

    def count(self, statistics: Statistics) -> None:
        """Add an answer that is over."""
        self.n_answers += 1
        self.taken = total([self.taken, statistics])


async def exposition(engine: Engine, totals: Totals) -> bytes:
    """All figures in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Figures(engine, totals, (await engine.memory())["resident"]))
    return generate_latest(registry)


@dataclass(frozen=True, eq=False)  # a registry tells its collectors apart by identity
class _Figures(Collector):
    """Reads the figures when they are asked for."""

    engine: Engine
    totals: Totals
    n_resident: int

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        engine, taken = self.engine, self.totals.taken
        drafts = taken.drafts or DraftStatistics()
        n_evaluated = taken.n_prompt - taken.n_reused
        yield _counter("llamacpp:prompt_tokens", "Prompt tokens evaluated.", n_evaluated)
        yield _counter("llamacpp:prompt_seconds", "Seconds until first tokens.", taken.prompt_s)
        yield _counter("llamacpp:tokens_predicted", "Tokens generated.", taken.n_tokens)
        yield _counter("llamacpp:tokens_predicted_seconds", "Seconds of generation.", taken.decode_s)
        yield _gauge("llamacpp:prompt_tokens_seconds", "Prompt tokens per second.", _rate(n_evaluated, taken.prompt_s))
        yield _gauge("llamacpp:predicted_tokens_seconds", "Tokens per second.", _rate(taken.n_tokens, taken.decode_s))
        yield _gauge("llamacpp:requests_processing", "Answers being made.", engine.n_running)
        yield _gauge("llamacpp:requests_deferred", "Answers that wait for a slot.", engine.n_waiting)
        yield _counter("llamacpp:spec_decode_num_drafts", "Drafts verified.", drafts.n_rounds)
        yield _counter("llamacpp:spec_decode_num_draft_tokens", "Tokens drafted.", drafts.n_drafted)
        yield _counter("llamacpp:spec_decode_num_accepted_tokens", "Drafted tokens accepted.", drafts.n_accepted)
        yield _counter("eftlite:prompt_tokens_cached", "Prompt tokens that were in the cache.", taken.n_reused)
        yield _counter("eftlite:answers", "Answers finished or stopped.", self.totals.n_answers)
        yield _counter("eftlite:engine_restarts", "Times the engine's process was replaced.", engine.n_restarts)
        yield _gauge("eftlite:engine_ready", "1 while the engine answers.", engine.state == "ready")
        yield _gauge("eftlite:engine_resident_bytes", "Memory of the engine's process.", self.n_resident)
        seconds = CounterMetricFamily("eftlite:member_seconds", "Seconds in llama_decode.", labels=["member"])
        for member, spent in taken.member_s.items():
            seconds.add_metric([member], spent)
        yield seconds


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds else 0.0
