"""Artifacts to test with: one like the shipped model's, one like the paper's."""

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
)
from service.core.encodings import AmodalEncoding, DepthEncoding, FlowEncoding

RGB = {"red": (0,), "green": (1,), "blue": (2,)}


def small_artifact() -> Artifact:
    """One network for all tasks, with a flow encoder of its own, 64 px in and 8 x 8 latents."""
    return Artifact(
        format=1,
        name="small",
        version=3,
        description="An artifact for tests",
        licence="Apache-2.0",
        provenance={"seed": "0"},
        schedule=ScheduleSpec(
            betas="scaled_linear",
            num_timesteps=1000,
            beta_start=0.00085,
            beta_end=0.012,
            zero_terminal_snr=True,
            set_alpha_to_one=True,
            spacing="trailing",
            steps_offset=0,
            prediction_type="v",
            sampler="ddim",
            start="noise",
        ),
        latent=LatentSpec(channels=4, size=FixedGrid(8, 8), scale=0.5),
        condition_channels=16,
        timestep_dtype="int64",
        has_labels=True,
        encoders=(
            EncoderSpec("small_encoder", FixedSize(64, 64), prompt=True, label=True),
            EncoderSpec("small_flow_encoder", FixedSize(64, 64), prompt=True, label=False),
        ),
        denoiser="small_denoiser",
        decoder="small_decoder",
        tasks=(
            ServedTask(
                task="depth",
                encoder="small_encoder",
                prompt="constant",
                prompt_value=1.0,
                encoder_label=0,
                components=(Component("depth", 0, {"depth": (0, 1, 2)}),),
                encoding=DepthEncoding(0.02, 0.98),
                steps=2,
                max_steps=200,
                members=3,
                reduction="aligned",
                calibration=(CalibrationPoint(1, 1, 0.2), CalibrationPoint(2, 3, 0.15)),
                error_metric="AbsRel",
            ),
            ServedTask(
                task="flow",
                encoder="small_flow_encoder",
                prompt="second",
                prompt_value=0.0,
                encoder_label=0,
                components=(Component("flow", 1, {"u": (0,), "v": (1,)}),),
                encoding=FlowEncoding(40.0, 30.0, 64, 48, 10.0),
                steps=1,
                max_steps=200,
                members=1,
                reduction="mean",
                calibration=(),
                error_metric="EPE",
            ),
            ServedTask(
                task="amodal",
                encoder="small_encoder",
                prompt="second",
                prompt_value=0.0,
                encoder_label=1,
                components=(
                    Component("mask", 2, {"mask": (0, 1, 2)}),
                    Component("appearance", 3, RGB),
                ),
                encoding=AmodalEncoding(background=1.0, threshold=0.1),
                steps=1,
                max_steps=200,
                members=1,
                reduction="median",
                calibration=(),
                error_metric="1 - mIoU",
            ),
        ),
        files={"small_encoder/3/model.onnx": "0" * 64},
    )
