"""The meters against llama-perplexity's formulas on whole arrays; the bootstrap; percentiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eftlite_quantize.kernels import N_FOUND, SAME_TOP
from eftlite_quantize.metrics import FIGURES, Meter
from tests.quantize import perplexity

N_CHUNKS, N_SCORED, N_VOCAB = 12, 31, 50


def models(difference: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], list[int]]:
    """Log-probabilities of two models (n, N_VOCAB), and what follows."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 3, (N_CHUNKS * N_SCORED, N_VOCAB))
    other = base + difference * rng.normal(0, 1, base.shape)
    p, q = (perplexity.log_softmax(rows.astype(np.float32)) for rows in (base, other))
    return p, q, rng.integers(0, N_VOCAB, len(p)).tolist()


def found_about(p: NDArray[np.float64], q: NDArray[np.float64], targets: list[int]) -> NDArray[np.float64]:
    """What the kernel would say, (n, N_FOUND)."""
    at = (np.arange(len(p)), np.array(targets))
    kld = (np.exp(p) * (p - q)).sum(1)
    return np.stack([-q[at], -p[at], kld, np.exp(q[at]) - np.exp(p[at]), p.argmax(1) == q.argmax(1)], 1)


def metered(found: NDArray[np.float64], sizes: tuple[int, ...] = (N_SCORED,)) -> Meter:
    """A meter that took these, in pieces of these sizes."""
    meter = Meter(len(found) // N_SCORED, N_SCORED)
    for chunk in found.reshape(-1, N_SCORED, N_FOUND):
        cuts = np.cumsum(sizes)[np.cumsum(sizes) < N_SCORED]
        for piece in np.split(chunk, cuts):
            meter.add(piece)
    return meter


@pytest.mark.parametrize("difference", [0.001, 0.1, 2.0])
def test_figures_are_llama_perplexitys(difference: float) -> None:
    p, q, targets = models(difference)
    expected = perplexity.statistics(p, q, targets)
    figures = metered(found_about(p, q, targets)).figures()
    assert list(figures) == list(FIGURES)
    for name, figure in figures.items():
        assert figure.value == pytest.approx(expected.pop(name), rel=2e-5, abs=1e-7), name
        if figure.gaussian is not None:
            assert figure.gaussian == pytest.approx(expected.pop(f"{name}_pm"), rel=1e-5, abs=1e-7), name
    assert not expected


def test_pieces_do_not_matter() -> None:
    found = found_about(*models(0.3))
    whole, cut = metered(found).figures(), metered(found, (3, 7, 11)).figures()
    for name in FIGURES:
        assert cut[name].value == pytest.approx(whole[name].value, rel=1e-12)


def test_a_model_compared_with_itself() -> None:
    p, _, targets = models(0.0)
    figures = metered(found_about(p, p, targets)).figures()
    zero = ("ln_ppl_ratio", "ppl_diff", "kld_mean", "kld_max", "kld_min", "dp_mean", "dp_rms")
    assert {name: figures[name].value for name in zero} == dict.fromkeys(zero, 0.0)
    assert vars(figures["ppl_ratio"]) == pytest.approx({"value": 1.0, "gaussian": 0.0, "bootstrap": 0.0}, abs=1e-7)
    assert figures["same_top"].value == 100
    assert figures["cor_ln_ppl"].value == pytest.approx(100)


# ---- the bootstrap


def test_the_seed_decides() -> None:
    meter = metered(found_about(*models(0.3)))
    first, again, other = meter.figures(seed=7), meter.figures(seed=7), meter.figures(seed=8)
    assert first == again
    assert first["kld_mean"].bootstrap != other["kld_mean"].bootstrap
    assert first["kld_mean"].value == other["kld_mean"].value


def test_bootstrap_is_that_of_resampled_chunks() -> None:
    """The same draws, done on the positions themselves."""
    p, q, targets = models(0.3)
    found = found_about(p, q, targets)
    figures = metered(found).figures(seed=3, n_resamples=40)
    rng, chunks = np.random.default_rng(3), found.reshape(N_CHUNKS, N_SCORED, N_FOUND)
    drawn = [chunks[rng.integers(0, N_CHUNKS, N_CHUNKS)].reshape(-1, N_FOUND) for _ in range(40)]
    kld = [one[:, 2].mean() for one in drawn]
    ratio = [math.exp(one[:, 0].mean() - one[:, 1].mean()) for one in drawn]
    rms = [100 * math.sqrt((one[:, 3] ** 2).mean()) for one in drawn]
    top = [100 * one[:, SAME_TOP].mean() for one in drawn]
    for name, values in (("kld_mean", kld), ("ppl_ratio", ratio), ("dp_rms", rms), ("same_top", top)):
        assert figures[name].bootstrap == pytest.approx(np.std(values, ddof=1)), name


def test_bootstrap_of_independent_positions_is_the_gaussian_error() -> None:
    """And of chunks whose positions are all alike it is larger by the root of their number."""
    rng = np.random.default_rng(0)
    found = np.abs(rng.normal(1, 0.1, (400 * N_SCORED, N_FOUND)))
    found[:, SAME_TOP] = 1
    figure = metered(found).figures()["kld_mean"]
    assert figure.bootstrap == pytest.approx(figure.gaussian, rel=0.15)
    alike = np.repeat(found[:400], N_SCORED, axis=0)
    figure = metered(alike).figures()["kld_mean"]
    assert figure.gaussian is not None
    assert figure.bootstrap == pytest.approx(figure.gaussian * math.sqrt(N_SCORED), rel=0.15)


def test_one_chunk_cannot_be_resampled() -> None:
    figures = metered(found_about(*models(0.3))[:N_SCORED]).figures()
    assert {figure.bootstrap for figure in figures.values()} == {None}


# ---- percentiles and edges


@given(st.lists(st.floats(0, 100, width=32), min_size=N_SCORED, max_size=N_SCORED))
def test_percentiles_are_exact(values: list[float]) -> None:
    found = np.zeros((N_SCORED, N_FOUND))
    found[:, 2] = values
    figures = metered(found).figures()
    ordered = sorted(values)
    for name, share in (("p99_9", 0.999), ("p99", 0.99), ("p90", 0.9), ("median", 0.5), ("p0_1", 0.001)):
        assert figures[f"kld_{name}"].value == pytest.approx(perplexity.percentile(ordered, share), rel=1e-6, abs=1e-9)
    assert (figures["kld_max"].value, figures["kld_min"].value) == (ordered[-1], ordered[0])


def test_what_is_beyond_all_measure_stays_a_number() -> None:
    found = np.zeros((2 * N_SCORED, N_FOUND))
    found[:N_SCORED, 0] = 1e6
    figures = metered(found).figures()
    assert figures["ppl"].value == 1e100
    assert all(math.isfinite(number) for one in figures.values() for number in vars(one).values() if number is not None)
