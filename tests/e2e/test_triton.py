"""Gateway processes before real Triton servers, on the shipped model."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.gateway import PATIENCE_S, Gateway, gateway
from tests.support.pictures import task_files
from tests.support.served import read_npz
from tests.support.triton_server import (
    ROOT,
    TritonServer,
    free_ports,
    triton_python,
    triton_server,
)

logger = logging.getLogger(__name__)

SHIPPED = ROOT / "model_repo"
TASKS = ("depth", "flow", "amodal")
AGREEMENT = 1e-3  # of the range of an answer
TOKEN = "a-token-of-the-test"
GROUPS = "health,metadata,inference,model-config,model-repository"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A real server of the shipped model, for tests that leave it as it is."""
    with triton_server(SHIPPED, tmp_path_factory.mktemp("triton")) as server:
        yield server


def over(*servers: TritonServer, **settings: object):
    """A gateway to servers; it notices quickly what becomes of them."""
    urls = ",".join(server.url for server in servers)
    quick = {"triton_heartbeat_s": 0.25, "triton_refresh_s": 0.5}
    return gateway(backend="triton", triton_urls=urls, **{**quick, **settings})


def ask(server: Gateway, task: str = "depth", **fields: object) -> httpx.Response:
    data = {"output": "npz", "seed": "7", **{key: str(value) for key, value in fields.items()}}
    url = f"{server.url}/{task}"
    return httpx.post(url, files=task_files(task), data=data, timeout=PATIENCE_S)


def test_answers_are_those_of_the_in_process_backend(shipped: TritonServer) -> None:
    apart: dict[str, float] = {}
    with over(shipped) as remote, gateway(model_repo=SHIPPED, threads=1) as local:
        remote.wait_ready()
        for task in TASKS:
            here, there = (ask(server, task, steps=5, ensemble=3) for server in (local, remote))
            assert (here.status_code, there.status_code) == (200, 200), there.text
            assert here.headers["x-percept-model"] == there.headers["x-percept-model"]
            ours, theirs = read_npz(here.content), read_npz(there.content)
            assert ours.keys() == theirs.keys()
            for name, values in ours.items():
                if values.dtype.kind == "f":
                    difference = np.abs(theirs[name].astype(float) - values)
                    apart[f"{task}.{name}"] = float(difference.max())
    logger.info("largest differences: %s", apart)
    assert apart
    assert max(apart.values()) <= AGREEMENT, apart


def test_a_gateway_waits_for_triton_and_follows_it(tmp_path: Path) -> None:
    triton_python()
    server = TritonServer(SHIPPED, tmp_path, "127.0.0.1", free_ports())
    try:
        with over(server) as front:
            front.wait_log("cannot be used")
            assert not front.ready()
            refused = ask(front)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
            server.start()
            front.wait_ready()
            first = ask(front)
            assert first.status_code == 200
            server.kill()
            front.wait_ready(False)
            state = f'percept_worker_up{{worker="triton:{server.url}"}} 0.0'
            assert state in httpx.get(f"{front.url}/metrics", timeout=PATIENCE_S).text
            server.start()
            front.wait_ready()
            again = read_npz(ask(front).content)
            np.testing.assert_array_equal(
                again["prediction"], read_npz(first.content)["prediction"]
            )
    finally:
        server.kill()


def test_two_servers_share_the_work_and_one_does_without_the_other(
    shipped: TritonServer, tmp_path: Path
) -> None:
    with (
        triton_server(SHIPPED, tmp_path, address="127.0.0.2") as second,
        over(shipped, second) as front,
    ):
        front.wait_ready()
        front.wait_log(f"the server at {second.url} offers percept:1")
        before = [executed(server) for server in (shipped, second)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask(front, steps=20), range(16)))
            assert {answer.status_code for answer in answers} == {200}
            after = [executed(server) for server in (shipped, second)]
            assert all(new > old for new, old in zip(after, before, strict=True)), (before, after)
            asking = [pool.submit(ask, front, steps=100) for _ in range(8)]
            second.kill()
            assert {each.result().status_code for each in asking} == {200}
        assert front.ready()


def statistics(server: TritonServer, model: str = "percept_denoiser"):
    from tritonclient.grpc import InferenceServerClient

    client = InferenceServerClient(server.url)
    try:
        (found,) = client.get_inference_statistics(model).model_stats
    finally:
        client.close()
    return found


def executed(server: TritonServer) -> int:
    return int(statistics(server).execution_count)


def test_batches_of_two_gateways_merge_inside_triton(shipped: TritonServer) -> None:
    """Each gateway asks for its own rows, one or two requests at a time."""
    with over(shipped) as one, over(shipped) as two:
        for front in (one, two):
            front.wait_ready()
        before = statistics(shipped)
        start = threading.Barrier(8)

        def load(front: Gateway) -> list[int]:
            start.wait(PATIENCE_S)
            return [ask(front, steps=50, ensemble=1).status_code for _ in range(4)]

        with ThreadPoolExecutor(8) as pool:
            codes = [code for found in pool.map(load, [one, two] * 4) for code in found]
        assert codes == [200] * 32
        after = statistics(shipped)
    requests = after.inference_stats.success.count - before.inference_stats.success.count
    rows = after.inference_count - before.inference_count
    executions = after.execution_count - before.execution_count
    logger.info("%d rows in %d requests and %d executions", rows, requests, executions)
    assert executions < requests
    assert rows / executions > rows / requests
    assert rows == 32 * 50


def test_terminating_answers_what_is_in_work_and_hangs_up(shipped: TritonServer) -> None:
    with over(shipped) as front, ThreadPoolExecutor(1) as pool:
        front.wait_ready()
        asking = pool.submit(ask, front, steps=200, ensemble=20)
        before = executed(shipped)
        front.wait(lambda: executed(shipped) > before + 2, "calls")
        front.process.terminate()
        assert asking.result().status_code == 200
        front.process.wait(PATIENCE_S)
        assert "Traceback" not in "".join(front.log)


def test_a_wrong_token_is_in_the_log_and_the_right_one_opens(tmp_path: Path) -> None:
    restricted = f"--grpc-restricted-protocol={GROUPS}:authorization=Bearer {TOKEN}"
    with triton_server(SHIPPED, tmp_path, options=("--", restricted)) as server:
        with over(server, triton_token="another") as front:
            front.wait_log("cannot be used: This protocol is restricted")
            assert not front.ready()
            assert ask(front).status_code == 503
            assert "another" not in "".join(front.log)
        with over(server, triton_token=TOKEN) as front:
            front.wait_ready()
            assert ask(front).status_code == 200
