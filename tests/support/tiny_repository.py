"""Builds a small but real model repository with `onnx.helper`: seconds of CPU, no training.

Pictures are 64 x 64, latents 4 x 8 x 8. The denoiser is the exact one for x_0 ~ N(scale mu,
SIGMA^2) where mu is a per-task linear map of the condition through tanh, so results make sense:

- depth is the picture's brightness (dark is near),
- flow is the change of red (u) and green (v) between the frames: equal frames give no motion,
- the amodal mask is the given mask, the appearance the picture's colours,
- normals are the picture's colours as vectors: red is to the right, green up, blue to the viewer.

The prediction depends on noisy, condition, timestep and task; every input of the contract occurs.
"""

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.core.artifact import (
    Artifact,
    CalibrationPoint,
    Component,
    EncoderSpec,
    FixedGrid,
    FixedSize,
    LatentSpec,
    ScheduleSpec,
    ServedTask,
    dump_artifact,
)
from service.core.encodings import (
    AmodalEncoding,
    DepthEncoding,
    FlowEncoding,
    NormalsEncoding,
)
from training.served_model import write_configs

IMAGE = 64  # pixels a side
LATENT = 8
PATCH = IMAGE // LATENT
CHANNELS = 4
CONDITION = 6  # mean RGB of every patch of the image, then of the prompt
SCALE = 0.5
SIGMA = 0.05
GAIN = 1.5
LABEL_SHIFT = 0.05  # what the depth encoder adds to the condition per unit of its label
OPSET = 18
IR_VERSION = 10

# mu of each label's latent channels before tanh, in the six channels of the condition
TARGETS = np.zeros((5, CHANNELS, CONDITION), dtype=np.float32)
TARGETS[0, :, :3] = GAIN / 3
TARGETS[1, :2, :2] = -0.5 * GAIN * np.eye(2)
TARGETS[1, :2, 3:5] = 0.5 * GAIN * np.eye(2)
TARGETS[2, :, 3:] = GAIN / 3
TARGETS[3, :3, :3] = GAIN * np.eye(3)
TARGETS[4, :3, :3] = GAIN * np.eye(3)

SCHEDULE = ScheduleSpec(
    betas="scaled_linear",
    num_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    zero_terminal_snr=False,
    set_alpha_to_one=True,
    spacing="trailing",
    steps_offset=0,
    prediction_type="v",
    sampler="ddim",
    start="noise",
)


def build_tiny_repository(folder: Path, *, name: str = "tiny", version: int = 1) -> Path:
    """Write a version of a model into the repository `folder`, beside others; return `folder`."""
    models = {
        f"{name}_depth_encoder": _encoder(prompt=False, label=True),
        f"{name}_flow_encoder": _encoder(prompt=True, label=False),
        f"{name}_amodal_encoder": _encoder(prompt=True, label=False),
        f"{name}_denoiser": _denoiser(),
        f"{name}_decoder": _decoder(),
    }
    files = {}
    for model, proto in models.items():
        path = f"{model}/{version}/model.onnx"
        data = proto.SerializeToString(deterministic=True)
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(data)
        files[path] = hashlib.sha256(data).hexdigest()
    artifact = tiny_artifact(name, version, files)
    (folder / f"{name}_denoiser" / str(version) / "artifact.json").write_text(
        dump_artifact(artifact)
    )
    write_configs(folder)
    return folder


def tiny_artifact(name: str, version: int, files: dict[str, str]) -> Artifact:
    """Return the artifact that goes with the networks of this file."""
    return Artifact(
        format=1,
        name=name,
        version=version,
        description="closed-form denoiser of coloured patches, for tests",
        licence="Apache-2.0",
        provenance={"made_by": "tests"},
        schedule=SCHEDULE,
        latent=LatentSpec(CHANNELS, FixedGrid(LATENT, LATENT), SCALE),
        condition_channels=CONDITION,
        timestep_dtype="int64",
        has_labels=True,
        encoders=(
            EncoderSpec(f"{name}_depth_encoder", FixedSize(IMAGE, IMAGE), prompt=False, label=True),
            EncoderSpec(f"{name}_flow_encoder", FixedSize(IMAGE, IMAGE), prompt=True, label=False),
            EncoderSpec(
                f"{name}_amodal_encoder", FixedSize(IMAGE, IMAGE), prompt=True, label=False
            ),
        ),
        denoiser=f"{name}_denoiser",
        decoder=f"{name}_decoder",
        tasks=(
            ServedTask(
                task="depth",
                encoder=f"{name}_depth_encoder",
                prompt="none",
                prompt_value=0.0,
                encoder_label=2,
                components=(Component("depth", 0, {"depth": (0, 1, 2)}),),
                encoding=DepthEncoding(),
                steps=2,
                max_steps=200,
                members=3,
                reduction="aligned",
                calibration=_calibration(0.2),
                error_metric="abs_rel",
            ),
            ServedTask(
                task="flow",
                encoder=f"{name}_flow_encoder",
                prompt="second",
                prompt_value=0.0,
                encoder_label=0,
                components=(Component("flow", 1, {"u": (0,), "v": (1,)}),),
                encoding=FlowEncoding(
                    divisor_x=16.0,
                    divisor_y=16.0,
                    reference_width=IMAGE,
                    reference_height=IMAGE,
                    companding=0.0,
                ),
                steps=4,
                max_steps=200,
                members=1,
                reduction="mean",
                calibration=_calibration(3.0),
                error_metric="epe",
            ),
            ServedTask(
                task="amodal",
                encoder=f"{name}_amodal_encoder",
                prompt="second",
                prompt_value=0.0,
                encoder_label=0,
                components=(
                    Component("mask", 2, {"mask": (0, 1, 2)}),
                    Component("appearance", 3, {"red": (0,), "green": (1,), "blue": (2,)}),
                ),
                encoding=AmodalEncoding(background=1.0, threshold=0.1),
                steps=3,
                max_steps=200,
                members=2,
                reduction="median",
                calibration=_calibration(0.4),
                error_metric="miou",
            ),
            ServedTask(
                task="normals",
                encoder=f"{name}_depth_encoder",
                prompt="none",
                prompt_value=0.0,
                encoder_label=0,
                components=(Component("normals", 4, {"x": (0,), "y": (1,), "z": (2,)}),),
                encoding=NormalsEncoding(),
                steps=2,
                max_steps=200,
                members=3,
                reduction="closest",
                calibration=_calibration(20.0),
                error_metric="mean_angle",
            ),
        ),
        files=files,
    )


def _calibration(error: float) -> tuple[CalibrationPoint, ...]:
    return tuple(
        CalibrationPoint(steps, members, error * (0.8 + 0.1 / steps + 0.1 / members))
        for steps in (1, 2, 5, 10)
        for members in (1, 3)
    )


def step_gains() -> tuple[np.ndarray, np.ndarray]:
    """Factors (T,) of x_t and of scale mu in the v prediction that is exact at every timestep."""
    alpha_bar = SCHEDULE.build().alpha_bar
    signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    weight = signal * SIGMA**2 / (alpha_bar * SIGMA**2 + 1 - alpha_bar)  # of x_t in E[x_0 | x_t]
    of_x_t = (signal - weight) / noise
    of_mean = -(1 - weight * signal) / noise
    return of_x_t.astype(np.float32), of_mean.astype(np.float32)


def _encoder(*, prompt: bool, label: bool) -> onnx.ModelProto:
    """Mean colour of every patch; zeros where there is no prompt."""
    inputs = [_tensor("image", (3, IMAGE, IMAGE))]
    nodes = [_patch_mean("image", "image_mean")]
    constants: dict[str, np.ndarray] = {}
    if prompt:
        inputs.append(_tensor("prompt", (3, IMAGE, IMAGE)))
        nodes.append(_patch_mean("prompt", "prompt_mean"))
    else:
        constants["zero"] = np.zeros((), dtype=np.float32)
        nodes.append(helper.make_node("Mul", ["image_mean", "zero"], ["prompt_mean"]))
    joined = "joined" if label else "condition"
    nodes.append(helper.make_node("Concat", ["image_mean", "prompt_mean"], [joined], axis=1))
    if label:
        inputs.append(_tensor("task", (), TensorProto.INT64))
        constants["shifts"] = LABEL_SHIFT * np.arange(4, dtype=np.float32)
        constants["per_row"] = np.array([-1, 1, 1, 1], dtype=np.int64)
        nodes.append(helper.make_node("Gather", ["shifts", "task"], ["shift"]))
        nodes.append(helper.make_node("Reshape", ["shift", "per_row"], ["row_shift"]))
        nodes.append(helper.make_node("Add", [joined, "row_shift"], ["condition"]))
    return _model(nodes, inputs, _tensor("condition", (CONDITION, LATENT, LATENT)), constants)


def _patch_mean(source: str, target: str) -> onnx.NodeProto:
    patch = [PATCH, PATCH]
    return helper.make_node("AveragePool", [source], [target], kernel_shape=patch, strides=patch)


def _denoiser() -> onnx.ModelProto:
    num_labels = len(TARGETS)
    of_x_t, of_mean = step_gains()
    constants = {
        "targets": TARGETS.reshape(num_labels * CHANNELS, CONDITION, 1, 1),
        "one_hot": np.eye(num_labels, dtype=np.float32),
        "of_x_t": of_x_t,
        "of_mean": of_mean * np.float32(SCALE),
        "per_label": np.array([0, num_labels, CHANNELS, LATENT, LATENT], dtype=np.int64),
        "label_shape": np.array([-1, num_labels, 1, 1, 1], dtype=np.int64),
        "per_row": np.array([-1, 1, 1, 1], dtype=np.int64),
        "label_axis": np.array([1], dtype=np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["condition", "targets"], ["linear"]),
        node("Tanh", ["linear"], ["bounded"]),
        node("Reshape", ["bounded", "per_label"], ["all_labels"]),
        node("Gather", ["one_hot", "task"], ["chosen"]),
        node("Reshape", ["chosen", "label_shape"], ["choice"]),
        node("Mul", ["all_labels", "choice"], ["masked"]),
        node("ReduceSum", ["masked", "label_axis"], ["mean"], keepdims=0),
        node("Gather", ["of_x_t", "timestep"], ["x_t_gain"]),
        node("Reshape", ["x_t_gain", "per_row"], ["x_t_factor"]),
        node("Gather", ["of_mean", "timestep"], ["mean_gain"]),
        node("Reshape", ["mean_gain", "per_row"], ["mean_factor"]),
        node("Mul", ["noisy", "x_t_factor"], ["x_t_part"]),
        node("Mul", ["mean", "mean_factor"], ["mean_part"]),
        node("Add", ["x_t_part", "mean_part"], ["prediction"]),
    ]
    inputs = [
        _tensor("noisy", (CHANNELS, LATENT, LATENT)),
        _tensor("condition", (CONDITION, LATENT, LATENT)),
        _tensor("timestep", (), TensorProto.INT64),
        _tensor("task", (), TensorProto.INT64),
    ]
    return _model(nodes, inputs, _tensor("prediction", (CHANNELS, LATENT, LATENT)), constants)


def _decoder() -> onnx.ModelProto:
    """Show the first three channels, enlarged."""
    constants = {
        "colours": np.eye(3, CHANNELS, dtype=np.float32).reshape(3, CHANNELS, 1, 1),
        "scales": np.array([1, 1, PATCH, PATCH], dtype=np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["latent", "colours"], ["small"]),
        helper.make_node("Resize", ["small", "", "scales"], ["image"], mode="linear"),
    ]
    inputs = [_tensor("latent", (CHANNELS, LATENT, LATENT))]
    return _model(nodes, inputs, _tensor("image", (3, IMAGE, IMAGE)), constants)


def _tensor(
    name: str, shape: tuple[int, ...], dtype: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, ["batch", *shape])


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    constants: dict[str, np.ndarray],
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], initializer=initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model
