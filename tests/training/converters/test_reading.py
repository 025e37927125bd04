"""What a checkpoint's files say: used, reported, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.core.encodings import NormalsEncoding
from tests.support.public_checkpoints import (
    NORMALS_INDEX,
    STABLE_DIFFUSION_INDEX,
    WEIGHTS,
    build_autoencoder,
    edit_json,
)
from tests.training.converters.conftest import Copy, described
from training.converters.record import ConvertError, Source

Change = Callable[[Path], object]


def edited(file: str, **fields: object) -> Change:
    return lambda folder: edit_json(folder / file, **fields)


SCHEDULER, INDEX = "scheduler/scheduler_config.json", "model_index.json"
UNET, VAE = "unet/config.json", "vae/config.json"

# What is left out or cannot be served: the change, and words of the message.
REFUSED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "betas": (edited(SCHEDULER, beta_start=None), (SCHEDULER, "beta_start")),
    "prediction": (edited(SCHEDULER, prediction_type=None), (SCHEDULER, "prediction_type")),
    "new prediction": (edited(SCHEDULER, prediction_type="flow"), ("'flow'", "v_prediction")),
    "sampler": (edited(SCHEDULER, _class_name="PNDMScheduler"), ("PNDM", "DDIMScheduler")),
    "clipping": (edited(SCHEDULER, clip_sample=None), (SCHEDULER, "clip_sample")),
    "offset": (edited(SCHEDULER, steps_offset=9), (SCHEDULER, "steps_offset")),
    "type": (edited(SCHEDULER, beta_end="0.012"), (SCHEDULER, "beta_end", "float")),
    "quantity": (edited(INDEX, prediction_type=None), (INDEX, "--predicts")),
    "steps": (edited(INDEX, default_denoising_steps=None), (INDEX, "--steps")),
    "resolution": (edited(INDEX, default_processing_resolution=None), (INDEX, "--resolution")),
    "odd": (edited(INDEX, default_processing_resolution=33), ("multiple of 2", "33")),
    "autoencoder": (edited(VAE, _class_name="VQModel"), (VAE, "AutoencoderTiny")),
    "shift": (edited(VAE, shift_factor=0.1), (VAE, "shift_factor")),
    "input": (edited(UNET, in_channels=4), (UNET, "in_channels", "8")),
    "text": (edited(UNET, cross_attention_dim=64), (UNET, "cross_attention_dim", "64", "32")),
    "no json": (lambda folder: (folder / INDEX).write_text("{"), (INDEX, "cannot be read")),
    "no file": (lambda folder: (folder / SCHEDULER).unlink(), (SCHEDULER, "missing")),
    "no weights": (lambda folder: (folder / "unet" / WEIGHTS).unlink(), ("unet", "safetensors")),
    "no licence": (lambda folder: (folder / "README.md").unlink(), ("README.md", "--licence")),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_served_is_named(reason: str, copy: Copy):
    folder = copy("marigold")
    described(folder)
    change, words = REFUSED[reason]
    change(folder)
    with pytest.raises(ConvertError) as caught:
        described(folder)
    for word in words:
        assert word in str(caught.value)


# What contradicts the family is used all the same, and reported.
REPORTED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "betas": (edited(SCHEDULER, beta_end=0.02), ("beta_end 0.02", "0.012")),
    "prediction": (edited(SCHEDULER, prediction_type="epsilon"), ("'epsilon'", "'v_prediction'")),
    "scale": (edited(VAE, scaling_factor=0.5), ("scaling_factor 0.5", "0.18215")),
    "no scale": (edited(VAE, scaling_factor=None), ("leaves scaling_factor out", "0.18215")),
    "spacing": (
        edited(SCHEDULER, rescale_betas_zero_snr=True),
        ("rescale_betas_zero_snr", "'leading'"),
    ),
    "invariance": (edited(INDEX, shift_invariant=False), ("shift_invariant", "median")),
}


@pytest.mark.parametrize("reason", REPORTED)
def test_what_contradicts_the_family_is_used_and_reported(reason: str, copy: Copy):
    folder = copy("marigold")
    assert described(folder).notes == ()
    change, words = REPORTED[reason]
    change(folder)
    conversion = described(folder)
    (note,) = conversion.notes
    for word in words:
        assert word in note
    assert conversion.provenance["note 1"] == note
    if reason == "betas":
        assert conversion.schedule.beta_end == 0.02
    if reason == "scale":
        assert conversion.latent.scale == 0.5


def test_everything_else_comes_from_the_files(copy: Copy):
    folder = copy("marigold")
    edit_json(folder / INDEX, default_denoising_steps=7, default_processing_resolution=48)
    edit_json(folder / SCHEDULER, timestep_spacing="trailing", rescale_betas_zero_snr=True)
    edit_json(folder / SCHEDULER, set_alpha_to_one=True)
    conversion = described(folder)
    assert conversion.schedule.spacing == "trailing"
    assert conversion.schedule.set_alpha_to_one
    assert conversion.schedule.steps_offset == 1
    assert conversion.encoders[0].size.example == (36, 48)
    assert conversion.tasks[0].steps == 7
    assert conversion.licence == "apache-2.0"
    chosen = described(folder, steps=3, members=5, resolution=64, licence="MIT").tasks[0]
    assert (chosen.steps, chosen.members) == (3, 5)


def test_files_from_before_newer_fields_mean_what_they_meant(copy: Copy):
    """The first Marigold's scheduler has neither spacing nor zero SNR nor thresholding."""
    folder = copy("marigold")
    expected = described(folder).schedule
    newer = ("timestep_spacing", "rescale_betas_zero_snr", "thresholding", "clip_sample_range")
    edit_json(folder / SCHEDULER, **dict.fromkeys(newer))
    edit_json(folder / SCHEDULER, skip_prk_steps=True)
    assert described(folder).schedule == expected
    assert expected.spacing == "leading"


def test_what_a_file_states_is_not_overruled_by_a_flag(built: dict[str, Path]):
    with pytest.raises(ConvertError, match=r"prediction_type 'depth'.*--predicts disparity"):
        described(built["marigold"], predicts="disparity")


def test_only_a_person_knows_an_end_to_end_fine_tune(copy: Copy):
    folder = copy("marigold")
    edit_json(folder / SCHEDULER, timestep_spacing="trailing")
    plain = described(folder)
    assert plain.schedule.start == "noise"
    assert "--variant e2e" in plain.notes[0]
    edit_json(folder / INDEX, **STABLE_DIFFUSION_INDEX)
    tuned = described(folder, variant="e2e", predicts="depth", resolution=32)
    assert tuned.schedule.start == "zeros"
    assert (tuned.tasks[0].steps, tuned.tasks[0].max_steps, tuned.notes) == (1, 1, ())
    edit_json(folder / SCHEDULER, timestep_spacing="leading")
    wrong = described(folder, variant="e2e", predicts="depth", resolution=32)
    assert "'trailing'" in wrong.notes[0]
    with pytest.raises(ConvertError, match="diffusion, e2e"):
        described(folder, variant="other")


def test_a_lotus_does_not_say_what_it_predicts(copy: Copy):
    folder = copy("lotus")
    with pytest.raises(
        ConvertError, match="--predicts depth or --predicts disparity or --predicts normals"
    ):
        described(folder, "lotus")
    conversion = described(folder, "lotus", predicts="disparity")
    assert conversion.schedule.prediction_type == "sample"
    assert "'v_prediction'" in conversion.notes[0]
    assert conversion.tasks[0].max_steps == 1
    with pytest.raises(ConvertError, match=r"--steps must be in 1\.\.1"):
        described(folder, "lotus", predicts="depth", steps=2)
    edit_json(folder / UNET, in_channels=5)
    with pytest.raises(ConvertError, match=r"in_channels is 5: Lotus D has 4, Lotus G 8"):
        described(folder, "lotus", predicts="depth")


def test_normals_have_the_axes_of_their_family(copy: Copy):
    folder = copy("marigold")
    edit_json(folder / INDEX, **NORMALS_INDEX)
    conversion = described(folder)
    (task,) = conversion.tasks
    assert (task.task, task.reduction, task.steps) == ("normals", "closest", 4)
    assert task.encoding == NormalsEncoding(x="right", z_range="full")
    assert task.components[0].channels == {"x": (0,), "y": (1,), "z": (2,)}
    assert "x is taken to point right" in conversion.notes[0]
    edit_json(folder / INDEX, use_full_z_range=False, prediction_type=None)
    half = described(folder)  # the class of the folder says what it predicts
    assert half.tasks[0].encoding == NormalsEncoding(x="right", z_range="half")
    with pytest.raises(ConvertError, match=r"'normals', against --predicts depth"):
        described(folder, predicts="depth")
    edit_json(folder / INDEX, **STABLE_DIFFUSION_INDEX)
    tuned = described(folder, variant="e2e", predicts="normals", resolution=32)
    assert tuned.tasks[0].encoding == NormalsEncoding(x="left", z_range="half")
    (drawn,) = described(copy("lotus"), "lotus", predicts="normals").tasks
    assert (drawn.encoding, drawn.reduction) == (NormalsEncoding(x="left"), "closest")


def test_what_no_task_answers_is_refused(copy: Copy):
    folder = copy("marigold")
    edit_json(
        folder / INDEX, _class_name="MarigoldIntrinsicsPipeline", prediction_type="intrinsics"
    )
    with pytest.raises(ConvertError, match="'intrinsics'; known are depth, disparity, normals"):
        described(folder)


def test_an_autoencoder_of_other_latents_is_refused(built: dict[str, Path], tmp_path: Path):
    vae = build_autoencoder(tmp_path / "vae", channels=16)
    with pytest.raises(ConvertError, match=r"4 channels, and the autoencoder in .* has 16"):
        described(built["marigold"], vae=Source(vae, str(vae)), licence="MIT")
