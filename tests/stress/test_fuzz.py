"""Requests that a fuzzer makes from the interface's own description: none may break the server or its engine.

Valid and invalid bodies, NUL among their characters, 200 of each kind for every route. About 3 minutes over an engine
that plays scripts, and 7 over the bundled models, most of it making the bodies.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from eftlite.server.openapi import OPERATIONS, Operation, document
from tests.server.asgi import make_app
from tests.server.fakes import FakeEngine
from tests.server.serving import figure, served
from tests.server.wire import running

schemathesis = pytest.importorskip("schemathesis")
requests = pytest.importorskip("requests")

pytestmark = pytest.mark.stress

N_EXAMPLES = 200
MAX_SECONDS = 30.0
VALID, INVALID = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
# Where nothing is sent, nothing can be wrong about it.
CASES = [
    pytest.param(operation, mode, id=f"{operation.path}-{mode.value}")
    for operation in OPERATIONS
    for mode in (VALID, INVALID)
    if mode is VALID or operation.body
]


@pytest.fixture(scope="module")
def fake() -> Iterator[str]:
    """A server whose engine plays scripts."""
    with running(make_app(FakeEngine())) as (host, port):
        yield f"http://{host}:{port}"


@pytest.fixture(scope="module")
def real() -> Iterator[str]:
    """A server with models and a context so short that no answer is long; its engine must never have died."""
    with served("--n-ctx", "128") as url:
        yield url
        assert figure(url, "eftlite:engine_restarts_total") == 0


@pytest.mark.parametrize("engine", ["fake", "real"])
@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_no_request_breaks_anything(
    operation: Operation, mode: Any, engine: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    url = request.getfixturevalue(engine)
    described = schemathesis.openapi.from_dict(document())[operation.path][operation.method]
    statuses: Counter[int] = Counter()
    checks = [schemathesis.checks.not_a_server_error, *conformance()]

    @settings(max_examples=N_EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=described.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        began = time.monotonic()
        response = case.call(base_url=url, session=session)
        statuses[response.status_code] += 1
        assert response.status_code < 500
        assert time.monotonic() - began < MAX_SECONDS
        case.validate_response(response, checks=checks)

    with requests.Session() as session:
        session.trust_env = False
        ask()
    with capsys.disabled():
        print(f"\n{engine} {mode.value} {operation.method} {operation.path}: {dict(sorted(statuses.items()))}")


def conformance() -> list[Any]:
    """Statuses, types and bodies must be the described ones."""
    from schemathesis.specs.openapi import checks

    return [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
