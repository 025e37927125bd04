"""A real Triton server on the tiny repository: the files it loads, and what it makes of calls.

Nothing of the service takes part: this is the ground that its Triton backend stands on.
"""

import json
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from service.backends.repository import ServedModel, load_repository
from service.core.artifact import InputGrid, LatentSpec, load_artifact
from service.core.tensors import model_tensors
from tests.support.tiny_repository import CHANNELS, PATCH, SCALE, build_tiny_repository
from tests.support.triton_server import TritonServer, free_ports, triton_server
from training.triton_config import triton_config

pytestmark = pytest.mark.triton

TIMEOUT_S = 60.0
TYPES = {"float32": "FP32", "int64": "INT64"}
MAX_BATCH = 64

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Client:
    """Blocking calls over gRPC; may be used by several threads."""

    grpc: Any
    server: TritonServer

    def infer(self, network: str, arrays: Arrays) -> np.ndarray:
        """One call of "folder:version". Raises tritonclient's InferenceServerException."""
        from tritonclient.grpc import InferInput

        folder, _, version = network.rpartition(":")
        inputs = []
        for name, array in arrays.items():
            # A scalar per row crosses the wire as the [1] that its configuration declares.
            sent = array[:, None] if array.ndim == 1 else array
            entry = InferInput(name, sent.shape, TYPES[str(sent.dtype)])
            entry.set_data_from_numpy(sent)
            inputs.append(entry)
        answer = self.grpc.infer(folder, inputs, model_version=version, client_timeout=TIMEOUT_S)
        (output,) = answer.get_response().outputs
        found: np.ndarray = answer.as_numpy(output.name)
        return found

    def get(self, path: str) -> Any:
        """JSON of Triton's HTTP side."""
        with urllib.request.urlopen(self.server.http_url + path, timeout=TIMEOUT_S) as answer:
            return json.load(answer)

    def load(self, folder: str) -> None:
        """Load a model's versions as they now lie in the repository. Raises HTTPError."""
        url = f"{self.server.http_url}/v2/repository/models/{folder}/load"
        urllib.request.urlopen(url, b"{}", timeout=TIMEOUT_S).close()

    def statistics(self, network: str) -> Any:
        """Counts of one version since it was loaded."""
        folder, _, version = network.rpartition(":")
        return self.get(f"/v2/models/{folder}/versions/{version}/stats")["model_stats"][0]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of the tiny model side by side."""
    folder = tmp_path_factory.mktemp("versions")
    build_tiny_repository(folder)
    return build_tiny_repository(folder, version=2)


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with triton_server(repository, tmp_path_factory.mktemp("triton"), faulty=True) as running:
        yield running


@pytest.fixture
def client(server: TritonServer) -> Iterator[Client]:
    from tritonclient import grpc

    server.fault("")
    with grpc.InferenceServerClient(server.url) as connection:
        yield Client(connection, server)


@pytest.fixture(scope="module")
def model(repository: Path) -> ServedModel:
    return load_repository(repository)["tiny:2"]


def inputs(model: ServedModel, network: str, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of a network, as its signature has them."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for tensor in model_tensors(model.artifact)[network].inputs:
        shape = (rows, *tensor.example)
        if tensor.dtype == "int64":
            arrays[tensor.name] = generator.integers(0, 4, shape)
        else:
            arrays[tensor.name] = generator.uniform(-1, 1, shape).astype(np.float32)
    return arrays


def in_process(model: ServedModel, network: str, arrays: Arrays) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.onnx_file(network))
    output: np.ndarray
    (output,) = session.run(None, dict(arrays))
    return output


@pytest.mark.parametrize("rows", [1, 5, MAX_BATCH])
def test_every_network_answers_as_onnxruntime_does(client: Client, model: ServedModel, rows: int):
    for network in model.networks:
        arrays = inputs(model, network, rows)
        expected = in_process(model, network, arrays)
        got = client.infer(network, arrays)
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_both_versions_answer(client: Client, repository: Path):
    for served in load_repository(repository).values():
        (network,) = (name for name in served.networks if "decoder" in name)
        arrays = inputs(served, network, 2)
        expected = in_process(served, network, arrays)
        np.testing.assert_allclose(client.infer(network, arrays), expected, atol=1e-5)


def test_calls_of_several_callers_merge_and_every_caller_gets_its_own(
    client: Client, model: ServedModel
):
    network = model.artifact.network(model.artifact.denoiser)
    calls = [inputs(model, network, rows=1 + i % 3, seed=i) for i in range(24)]
    expected = [in_process(model, network, arrays) for arrays in calls]
    before = client.statistics(network)
    got = [answer.result() for answer in together(client, network, calls)]
    for have, want in zip(got, expected, strict=True):
        np.testing.assert_allclose(have, want, atol=1e-5)
    after = client.statistics(network)
    num_calls = after["inference_stats"]["success"]["count"]
    num_calls -= before["inference_stats"]["success"]["count"]
    num_rows = after["inference_count"] - before["inference_count"]
    num_runs = after["execution_count"] - before["execution_count"]
    assert num_calls == len(calls)
    assert num_rows == sum(len(arrays["noisy"]) for arrays in calls)
    # The first runs alone; preferred sizes may part the 47 rows of the others.
    assert 2 <= num_runs <= 4


def together(client: Client, network: str, calls: Sequence[Arrays]) -> list[Future[np.ndarray]]:
    """Calls of which all but the first queue up while that hangs: they meet on any machine."""
    server, folder = client.server, network.partition(":")[0]
    server.fault("hang", folder)
    with ThreadPoolExecutor(len(calls)) as pool:
        try:
            answers = [pool.submit(client.infer, network, calls[0])]
            until(server.is_holding)
            answers += [pool.submit(client.infer, network, arrays) for arrays in calls[1:]]
            until(lambda: server.num_pending(folder) == len(calls) - 1)
        finally:
            server.fault("")
    return answers


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in another process."""
    deadline = time.monotonic() + TIMEOUT_S / 2
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_one_bad_call_of_a_merged_batch_is_told_and_its_mates_are_answered(
    client: Client, model: ServedModel
):
    network = model.artifact.network(model.artifact.denoiser)
    calls = [inputs(model, network, rows=2, seed=i) for i in range(8)]
    calls[3]["task"] = np.array([0, 99])  # no such label
    problems = [answer.exception() for answer in together(client, network, calls)]
    assert [problem is not None for problem in problems] == [i == 3 for i in range(8)]
    assert "out of" in str(problems[3])


def test_models_are_warmed_up_before_they_are_ready(
    model: ServedModel, repository: Path, tmp_path: Path
):
    folder = model.artifact.decoder
    options = ("--load", folder)
    server = TritonServer(repository, tmp_path, "127.0.0.1", free_ports(), True, options)
    try:
        server.fault("hang")  # which only a call can meet, and no client calls
        server.start(wait=False)
        until(server.is_holding)
        assert not server.is_ready()
        server.fault("")
        server.wait_ready()
        assert "warmup" not in server.log.read_text(errors="replace")  # it says what went wrong
    finally:
        server.kill()


def test_a_version_that_does_not_load_leaves_the_others_serving(
    client: Client, model: ServedModel, repository: Path
):
    network, decoder = model.artifact.network(model.artifact.decoder), model.artifact.decoder
    arrays = inputs(model, network, 2)
    expected = client.infer(network, arrays)
    broken = repository / decoder / "3"
    broken.mkdir()
    try:
        (broken / "model.onnx").write_bytes(b"no network")
        with pytest.raises(urllib.error.HTTPError) as refused:
            client.load(decoder)
        with refused.value as answer:
            assert b"version 3 is at UNAVAILABLE state" in answer.read()
        np.testing.assert_array_equal(client.infer(network, arrays), expected)
    finally:
        shutil.rmtree(broken)
        client.load(decoder)


def test_a_version_that_is_added_is_loaded_beside_those_that_serve(tmp_path: Path):
    from tritonclient import grpc

    repository = build_tiny_repository(tmp_path / "repository")
    with triton_server(repository, tmp_path) as server:
        build_tiny_repository(repository, version=2)
        models = load_repository(repository)
        with grpc.InferenceServerClient(server.url) as connection:
            client = Client(connection, server)
            for folder in models["tiny:2"].artifact.folders:
                client.load(folder)
            for served in models.values():
                network = served.artifact.network(served.artifact.decoder)
                arrays = inputs(served, network, 2)
                expected = in_process(served, network, arrays)
                np.testing.assert_allclose(client.infer(network, arrays), expected, atol=1e-5)


def test_any_size_is_served_where_sizes_follow_the_upload(tmp_path: Path):
    from tritonclient import grpc

    repository = build_tiny_repository(tmp_path / "repository")
    (model,) = load_repository(repository).values()
    decoder, network = model.artifact.decoder, model.artifact.network(model.artifact.decoder)
    latent = LatentSpec(CHANNELS, InputGrid(PATCH), SCALE)
    config = triton_config(decoder, [replace(model.artifact, latent=latent)])
    assert f"dims: [ {CHANNELS}, -1, -1 ]" in config
    (repository / decoder / "config.pbtxt").write_text(config)
    graph = onnx.load(model.onnx_file(network))
    for value in (*graph.graph.input, *graph.graph.output):
        for side in value.type.tensor_type.shape.dim[2:]:
            side.dim_param = f"{value.name}_{side.dim_value}"
    onnx.save(graph, model.onnx_file(network))
    latents = [
        {"latent": np.random.default_rng(i).normal(size=(2, CHANNELS, *size)).astype(np.float32)}
        for i, size in enumerate([(8, 8), (3, 11), (8, 8), (11, 3)] * 3)
    ]
    options = ("--load", decoder)
    with (
        triton_server(repository, tmp_path, faulty=True, options=options) as server,
        grpc.InferenceServerClient(server.url) as connection,
    ):
        answers = together(Client(connection, server), network, latents)
    for answer, arrays in zip(answers, latents, strict=True):
        expected = in_process(model, network, arrays)
        np.testing.assert_allclose(answer.result(), expected, atol=1e-5)


def test_a_batch_over_the_largest_is_refused(client: Client, model: ServedModel):
    from tritonclient.utils import InferenceServerException

    network = model.artifact.network(model.artifact.decoder)
    with pytest.raises(InferenceServerException, match="batch-size must be <= 64"):
        client.infer(network, inputs(model, network, MAX_BATCH + 1))


def test_the_server_knows_the_whole_artifact(client: Client, repository: Path):
    for served in load_repository(repository).values():
        artifact = served.artifact
        for folder in artifact.folders:
            config = client.get(f"/v2/models/{folder}/config")
            parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
            assert parameters[f"checksum.{artifact.version}"] == artifact.checksum(folder)
            if folder == artifact.denoiser:
                assert load_artifact(parameters[f"artifact.{artifact.version}"]) == artifact


def test_faults_come_and_go(client: Client, model: ServedModel, server: TritonServer):
    from tritonclient.utils import InferenceServerException

    network = model.artifact.network(model.artifact.decoder)
    arrays = inputs(model, network, 2)
    expected = in_process(model, network, arrays)
    server.fault("error", model.artifact.decoder)
    with pytest.raises(InferenceServerException, match="a fault that a test asked for"):
        client.infer(network, arrays)
    server.fault("nan")
    assert np.isnan(client.infer(network, arrays)).all()
    for words in ("error", "nan"):
        server.fault(words, model.artifact.denoiser)  # of another model
        np.testing.assert_allclose(client.infer(network, arrays), expected, atol=1e-5)
    server.fault("slow 0.3")
    np.testing.assert_allclose(client.infer(network, arrays), expected, atol=1e-5)
    spent = client.statistics(network)["inference_stats"]["compute_infer"]["ns"]
    assert spent >= 0.3e9


def test_it_can_be_killed_paused_and_started_again(repository: Path, tmp_path: Path):
    with triton_server(repository, tmp_path, address="127.0.0.2") as server:
        shared = server._shared_memory()
        assert shared
        server.kill()
        assert not server.is_ready()
        assert not any(path.exists() for path in shared)
        server.start()
        assert server.is_ready()
        server.pause()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.is_ready)
            with pytest.raises(TimeoutError):
                answer.result(0.5)  # the connection is open, and nobody answers
            server.resume()
            assert answer.result()
        assert server.stop() in (0, -signal.SIGTERM)
        assert "Waiting for in-flight requests" in server.log.read_text(errors="replace")
