"""A server's configurations are believed only where they are whole and agree with each other."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest

from service.backends.offers import ModelConfig, Parameter, TensorConfig, newest, read_offer
from service.backends.repository import RepositoryError
from service.core.artifact import Artifact, dump_artifact
from service.core.tensors import Tensor, model_tensors
from tests.support.artifacts import small_artifact

Configs = dict[str, ModelConfig]
TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}
ARTIFACT = small_artifact()  # small:3


def config(folder: str, *versions: Artifact) -> ModelConfig:
    """What a server says of a network, in the JSON form of its configuration."""
    signature = model_tensors(versions[0])[versions[0].network(folder)]

    def tensor(tensor: Tensor) -> TensorConfig:
        dims = [str(size or -1) for size in tensor.shape or (1,)]
        return {"name": tensor.name, "data_type": TYPES[tensor.dtype], "dims": dims}

    parameters: dict[str, Parameter] = {
        f"checksum.{a.version}": {"string_value": a.checksum(folder)} for a in versions
    }
    if folder == versions[0].denoiser:
        parameters |= {
            f"artifact.{a.version}": {"string_value": dump_artifact(a)} for a in versions
        }
    return {
        "max_batch_size": 8,
        "input": [tensor(each) for each in signature.inputs],
        "output": [tensor(signature.output)],
        "parameters": parameters,
    }


def configs(*versions: Artifact) -> Configs:
    return {folder: config(folder, *versions) for folder in versions[0].folders}


def ready(found: Configs, *versions: str) -> dict[str, frozenset[str]]:
    return dict.fromkeys(found, frozenset(versions))


def test_what_is_whole_is_offered_and_strangers_are_passed_over() -> None:
    newer = replace(ARTIFACT, version=4, files={"small_encoder/4/model.onnx": "1" * 64})
    found = configs(ARTIFACT, newer)
    found["resnet"] = {"max_batch_size": 0, "parameters": {"artifact.x": {"string_value": "{"}}}
    offer = read_offer(found, ready(found, "3", "4"))
    assert offer.artifacts == {"small:3": ARTIFACT, "small:4": newer}
    assert offer.refusals == ()
    assert offer.networks == set(model_tensors(ARTIFACT)) | set(model_tensors(newer))
    assert offer.max_rows["small_denoiser"] == 8
    assert newest("small_denoiser", found["small_denoiser"]) == newer
    assert newest("small_decoder", found["small_decoder"]) is None


def test_versions_that_are_not_loaded_are_no_offer_and_no_refusal() -> None:
    newer = replace(ARTIFACT, version=10, files={})
    found = configs(ARTIFACT, newer)
    offer = read_offer(found, ready(found, "3"))
    assert (list(offer.artifacts), offer.refusals) == (["small:3"], ())
    assert newest("small_denoiser", found["small_denoiser"]) == newer  # 10 is above 3


def test_one_bad_version_does_not_take_the_other_with_it() -> None:
    newer = replace(ARTIFACT, version=4, files={})
    found = configs(ARTIFACT, newer)
    found["small_decoder"]["parameters"]["checksum.4"]["string_value"] = "0" * 64
    offer = read_offer(found, ready(found, "3", "4"))
    assert list(offer.artifacts) == ["small:3"]
    assert len(offer.refusals) == 1


def edit_artifact(found: Configs, change: Callable[[dict[str, object]], object]) -> None:
    parameter = found["small_denoiser"]["parameters"]["artifact.3"]
    record = json.loads(parameter["string_value"])
    change(record)
    parameter["string_value"] = json.dumps(record)


def unknown_format(found: Configs) -> None:
    edit_artifact(found, lambda record: record.update(format=2, surprise={}))


def unknown_key(found: Configs) -> None:
    edit_artifact(found, lambda record: record.update(surprise=1))


def another_version(found: Configs) -> None:
    parameters = found["small_denoiser"]["parameters"]
    other = replace(ARTIFACT, version=4, files={})
    parameters["artifact.3"]["string_value"] = dump_artifact(other)


def no_json(found: Configs) -> None:
    found["small_denoiser"]["parameters"]["artifact.3"]["string_value"] = "{"


def wrong_checksum(found: Configs) -> None:
    found["small_encoder"]["parameters"]["checksum.3"]["string_value"] = "f" * 64


def no_checksum(found: Configs) -> None:
    del found["small_encoder"]["parameters"]["checksum.3"]


def no_batches(found: Configs) -> None:
    found["small_decoder"]["max_batch_size"] = 0


def wrong_dims(found: Configs) -> None:
    found["small_denoiser"]["input"][0]["dims"] = ["4", "8", "9"]


def wrong_rank(found: Configs) -> None:
    found["small_denoiser"]["output"][0]["dims"] = ["4", "8"]


def wrong_type(found: Configs) -> None:
    found["small_denoiser"]["input"][2]["data_type"] = "TYPE_FP16"


def wrong_name(found: Configs) -> None:
    found["small_denoiser"]["input"][0]["name"] = "x_t"


def one_input_more(found: Configs) -> None:
    found["small_denoiser"]["input"].append(
        {"name": "guidance", "data_type": "TYPE_FP32", "dims": ["1"]}
    )


@pytest.mark.parametrize(
    ("damage", "says", "to_do"),
    [
        (unknown_format, "format 2 and this service reads format 1", "export the model again"),
        (unknown_key, "surprise", "export the model again"),
        (another_version, "the artifact of small_denoiser:4 as that of its version 3", "export"),
        (no_json, "small_denoiser's parameter artifact.3 is not JSON", "export the model again"),
        (wrong_checksum, "small:3: small_encoder version 3 is not the file", "copy the whole"),
        (no_checksum, "small:3: small_encoder version 3 is not the file", "copy the whole"),
        (no_batches, "small_decoder: it takes no batches", "export the model again"),
        (wrong_dims, "small_denoiser: noisy is .*'9'", "export the model again"),
        (wrong_rank, "small_denoiser: prediction is ", "export the model again"),
        (wrong_type, "small_denoiser: timestep is .*FP16", "export the model again"),
        (wrong_name, r"small_denoiser: it has .*'x_t'.* where \['noisy'", "export the model"),
        (one_input_more, "it has .*'guidance'", "export the model again"),
    ],
)
def test_what_is_not_as_exported_is_refused_and_says_what_to_do(
    damage: Callable[[Configs], None], says: str, to_do: str
) -> None:
    found = deepcopy(configs(ARTIFACT))
    damage(found)
    offer = read_offer(found, ready(found, "3"))
    assert (offer.artifacts, offer.networks) == ({}, frozenset())
    (refusal,) = offer.refusals
    with pytest.raises(RepositoryError, match=f"{says}.*{to_do}"):
        raise RepositoryError(refusal)


def test_a_network_that_is_not_ready_is_named() -> None:
    found = configs(ARTIFACT)
    states = ready(found, "3") | {"small_flow_encoder": frozenset({"2"})}
    offer = read_offer(found, states)
    assert offer.artifacts == {}
    assert "small:3: small_flow_encoder version 3 is not ready" in offer.refusals[0]
    assert "see the server's log" in offer.refusals[0]
    del found["small_flow_encoder"], states["small_flow_encoder"]
    assert read_offer(found, states).refusals == offer.refusals


def test_the_newest_artifact_of_a_foreign_export_is_refused_by_name() -> None:
    found = configs(ARTIFACT)
    another_version(found)
    with pytest.raises(RepositoryError, match="export the model again"):
        newest("small_denoiser", found["small_denoiser"])
