"""What the OpenAPI document says is what the service does: schemathesis, the same every time.

`PERCEPT_SCHEMA_EXAMPLES` sets how many calls of each operation, of each kind, are tried.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.e2e.test_server import Server, serving
from tests.support.pictures import disc, encode, gradient

NUM_EXAMPLES = int(os.environ.get("PERCEPT_SCHEMA_EXAMPLES", "100"))
CHECKS: list[CheckFunction] = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# Of one size, so that they go together; random bytes alone would all be refused at once.
schemathesis.openapi.format(
    "binary", st.sampled_from([encode(gradient()), encode(disc()), encode(disc())[:99], b"none"])
)
DEADLINE = "X-Deadline-Ms"  # who sends one may be told that it cannot be met


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[Server]:
    with serving(tiny_repository, "--backend", "analytic") as running:
        yield running


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_operation_answers_as_documented(server, mode):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    statuses: Counter[int] = Counter()
    num_operations = 0
    with requests.Session() as session:
        for found in schema.get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()
            num_operations += 1

            @settings(
                max_examples=NUM_EXAMPLES,
                derandomize=True,
                database=None,
                deadline=None,
                phases=(Phase.explicit, Phase.generate),
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def tries(case: schemathesis.Case[Any]) -> None:
                answer = case.call(session=session)
                statuses[answer.status_code] += 1
                late = answer.status_code in (503, 504) and DEADLINE in (case.headers or {})
                assert answer.status_code < 500 or late, case.as_curl_command()
                case.validate_response(answer, checks=CHECKS)

            if mode.is_positive or _can_be_wrong(operation):
                tries()
    assert num_operations >= 7
    assert sum(statuses.values()) >= NUM_EXAMPLES, statuses
    wanted = {200, 415, 422} if mode.is_positive else {422}
    assert wanted <= set(statuses), statuses
    assert server.process.poll() is None
    assert "Traceback" not in "".join(server.log)


def _can_be_wrong(operation: schemathesis.APIOperation[Any, Any, Any, Any]) -> bool:
    """Whether an operation takes a form: a name in a path is never of a wrong kind."""
    return len(operation.body) > 0
