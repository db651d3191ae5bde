"""Pictures of what recordings say: a sweep's curves, divergence by role, and the front of a plan.

As plots.py: for screens and black-and-white print, matplotlib only when a picture is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from eftlite.errors import EFTError
from eftlite_quantize.plots import DPI, check_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

    from eftlite_quantize.plan import Choice
    from eftlite_quantize.replay import Score
    from eftlite_quantize.roles import Swap


@contextmanager
def _picture(path: Path, size: tuple[float, float]) -> Iterator[Picture]:
    """A figure that is saved at the end; the same figures give the same bytes."""
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure as Picture

    with mpl.rc_context({"svg.hashsalt": "eftlite", "font.size": 9}):
        picture = Picture(figsize=size, dpi=DPI, layout="constrained")
        yield picture
        try:
            picture.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else {})
        except OSError as error:
            raise EFTError(f"{path.name}: cannot be written: {error.strerror}") from None


def draw_sweep(name: str, values: Sequence[float], scores: Sequence[Score], path: Path) -> None:
    """Perplexity, expected acceptance and divergence against a knob.

    Raises:
        InputError, EFTError: as ``check_plot``, or the file cannot be written.
    """
    curves = {
        "perplexity": [one.ppl for one in scores],
        "expected acceptance": [one.acceptance for one in scores],
        "mean KLD, nats": [one.kld.value for one in scores],
    }
    with _picture(path, (6.4, 5.4)) as picture:
        axes = picture.subplots(len(curves), 1, sharex=True)
        for one, (title, heights) in zip(axes, curves.items(), strict=True):
            one.plot(values, heights, "o-", color="black", markersize=3, linewidth=1)
            one.set_ylabel(title)
            one.grid(visible=True, color="0.88", linewidth=0.6)
        axes[-1].set_xlabel(name)


def draw_roles(swaps: Sequence[Swap], path: Path) -> None:
    """Divergence against type, a line for each role.

    Raises:
        InputError, EFTError: as ``check_plot``, or the file cannot be written.
    """
    lines: dict[str, dict[str, float]] = {}
    for one in swaps:
        if len(set(one.kinds.values())) == 1:
            lines.setdefault(one.what, {})[next(iter(one.kinds.values()))] = one.score.kld.value
    with _picture(path, (6.4, 4.4)) as picture:
        axes = picture.add_subplot()
        for (what, found), marker in zip(lines.items(), cycle("os^vDPX*"), strict=False):
            axes.plot(list(found), list(found.values()), marker=marker, linewidth=1, markersize=5, label=what)
        axes.set_yscale("log")
        axes.set_ylabel("mean KLD of the composite, nats")
        axes.set_xlabel("type of what is quantized")
        axes.grid(visible=True, color="0.88", linewidth=0.6)
        axes.legend(frameon=False)


def draw_front(choices: Sequence[Choice], chosen: Choice, path: Path) -> None:
    """Divergence against size; the chosen combination is full, and labelled.

    Raises:
        InputError, EFTError: as ``check_plot``, or the file cannot be written.
    """
    drawn = [one for one in choices if one.score.kld.value > 0]  # there is no place for 0 on a logarithmic axis
    with _picture(path, (6.4, 4.4)) as picture:
        axes = picture.add_subplot()
        sizes = [one.n_bytes / 2**20 for one in drawn]
        fill = ["black" if one is chosen else "white" for one in drawn]
        axes.plot(sizes, [one.score.kld.value for one in drawn], "--", color="0.4", linewidth=1, zorder=1)
        axes.scatter(sizes, [one.score.kld.value for one in drawn], c=fill, edgecolors="black", s=24, zorder=2)
        axes.set_yscale("log")
        axes.set_xlabel("weights and caches, MiB")
        axes.set_ylabel("mean KLD of the composite, nats")
        axes.set_title("chosen: " + ", ".join(f"{name} {kind}" for name, kind in chosen.kinds.items()))
        axes.grid(visible=True, color="0.88", linewidth=0.6)
