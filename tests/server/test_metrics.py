"""Figures for Prometheus: the right names, sums over answers, and a text that its own parser reads."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from eftlite.server.metrics import Totals
from tests.server.asgi import CHAT, HELLO, client_of
from tests.server.fakes import FakeEngine


def figures(engine: FakeEngine, totals: Totals) -> dict[tuple[str, str], float]:
    """Values by name and member."""
    response = client_of(engine, totals).get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, sample.labels.get("member", "")): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_before_any_answer() -> None:
    found = figures(FakeEngine(), Totals())
    assert found["llamacpp:prompt_tokens_total", ""] == 0
    assert found["llamacpp:prompt_tokens_seconds", ""] == 0
    assert found["eftlite:engine_ready", ""] == 1
    assert found["eftlite:engine_resident_bytes", ""] == 123_456_789


def test_sums_over_answers() -> None:
    engine, totals = FakeEngine(), Totals()
    for stream in (True, False):
        client_of(engine, totals).post(CHAT, json={"messages": HELLO, "stream": stream})
    found = figures(engine, totals)
    expected = {
        "llamacpp:prompt_tokens_total": 6, "llamacpp:prompt_seconds_total": 1.0,
        "llamacpp:tokens_predicted_total": 8, "llamacpp:tokens_predicted_seconds_total": 0.5,
        "llamacpp:prompt_tokens_seconds": 6.0, "llamacpp:predicted_tokens_seconds": 16.0,
        "llamacpp:spec_decode_num_drafts_total": 4, "llamacpp:spec_decode_num_draft_tokens_total": 8,
        "llamacpp:spec_decode_num_accepted_tokens_total": 6, "eftlite:prompt_tokens_cached_total": 4,
        "eftlite:answers_total": 2,
    }  # fmt: skip  # a table
    assert {name: found[name, ""] for name in expected} == expected
    assert found["eftlite:member_seconds_total", "base"] == pytest.approx(0.8)


def test_what_the_engine_does_now() -> None:
    engine = FakeEngine(state="restarting", n_running=2, n_waiting=3, n_restarts=4)
    found = figures(engine, Totals())
    assert found["llamacpp:requests_processing", ""] == 2
    assert found["llamacpp:requests_deferred", ""] == 3
    assert found["eftlite:engine_restarts_total", ""] == 4
    assert found["eftlite:engine_ready", ""] == 0
