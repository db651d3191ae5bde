"""Shared by the benchmarks: phases timed in rounds, the machine in words, results as JSON and Markdown.

Figures of a busy machine mean nothing; a report says how busy the processors were before it began.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from eftlite import __version__

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("llama-cpp-python", "numpy", "numba")
BUSY_PERCENT = 15.0


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of one or more numbers."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


def alternate(phases: Mapping[str, Callable[[], float]], n_rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Run every phase once a round, beginning with another one each time.

    Args:
        phases: by name; each returns its figure, e.g. seconds per token.
        warm_up: rounds before those that count.

    Returns:
        n_rounds figures by phase, in the order of rounds, so that ratios can be taken within a round.
    """
    figures: dict[str, list[float]] = {name: [] for name in phases}
    names = list(phases)
    for index in range(-warm_up, n_rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            figure = phases[name]()
            if index >= 0:
                figures[name].append(figure)
    return figures


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Spread of the ratios within each round."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


@dataclass(frozen=True)
class Bar:
    """What a figure must be: at most, or at least, a limit."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the figure is on the right side."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{'met   ' if self.is_met else 'MISSED'} {self.name}: {self.value:.3g} ({sign} {self.limit:g})"


# ---- the machine


def machine() -> dict[str, Any]:
    """The machine in words, without names of hosts, people or folders."""
    return {
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"eftlite": __version__, **{name: metadata.version(name) for name in LIBRARIES}},
        "llama_cpp_built_for": _built_for(),
    }


def cpu_name() -> str:
    """The processor's own name."""
    if platform.system() == "Linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return found[0] if found else platform.machine()
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def _built_for() -> str:
    from eftlite.llama import system_info

    return " ".join(
        part.split("=")[0].strip().removeprefix("CPU : ") for part in system_info().split("|") if "= 1" in part
    )


def busy_percent() -> float:
    """How busy all processors are, over one second in which we do nothing."""
    return float(psutil.cpu_percent(interval=1.0))


# ---- reports


@dataclass
class Report:
    """What a benchmark found.

    Attributes:
        name: of the benchmark; its files are called so.
        about: what the table shows, for people.
        settings: what was measured; no paths.
        rows: one mapping for each row of the table, all with the same keys.
        bars: what the figures must be.
        busy: percent of the processors' time that others took before it began.
    """

    name: str
    about: str
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    bars: list[Bar]
    busy: float

    def finish(self, keep: bool) -> int:
        """Print the table, write the files when asked to; the exit code: 1 when a bar was missed."""
        print(self.markdown())
        if keep:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")
            (RESULTS / f"{self.name}.json").write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
        return 0 if all(bar.is_met for bar in self.bars) else 1

    def as_json(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        bars = [
            {"name": bar.name, "value": bar.value, "limit": bar.limit, "at_least": bar.at_least, "met": bar.is_met}
            for bar in self.bars
        ]
        return {
            "benchmark": self.name,
            "machine": machine(),
            "busy_percent_before": self.busy,
            "settings": self.settings,
            "rows": self.rows,
            "bars": bars,
        }

    def markdown(self) -> str:
        """The report for people."""
        here = machine()
        versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
        cores = f"{here['cpu']}, {here['cores']} cores, {here['threads']} threads, {here['memory_gb']} GB"
        noise = " **The machine was not quiet: do not trust these figures.**" if self.busy > BUSY_PERCENT else ""
        return "\n".join(
            [
                f"# {self.name}",
                "",
                self.about,
                "",
                *_table(self.rows),
                "",
                *(f"- {bar}" for bar in self.bars),
                "",
                f"Machine: {cores}; {here['system']}, Python {here['python']}, {versions}.",
                f"llama.cpp was built for {here['llama_cpp_built_for']}.",
                f"Busy before: {self.busy:.0f} %.{noise}",
                "Settings: " + ", ".join(f"{name} {value}" for name, value in self.settings.items()) + ".",
                "",
            ]
        )


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    head = list(rows[0])
    lines = [[_cell(row[name]) for name in head] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines)]


def _cell(value: Any) -> str:
    if isinstance(value, Spread):
        return f"{value.median:.4g} ({value.low:.4g} – {value.high:.4g})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def cache_folder() -> Path:
    """Where model files of shapes are kept unless a folder is named."""
    import platformdirs

    return Path(os.environ.get("EFTLITE_CACHE_DIR") or platformdirs.user_cache_dir("eftlite")) / "shapes"
