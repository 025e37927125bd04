"""What a conversion of the released generalist says, refuses, and asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.public_generalist import SHAPE, Release, build_generalist
from training.convert import main
from training.converters import latent_diffusion
from training.converters.hub import find_checkpoint
from training.converters.record import Conversion, ConvertError, Request
from training.converters.table import CONVERTERS


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return build_generalist(tmp_path_factory.mktemp("release"))


def test_a_folder_that_holds_everything_needs_no_other(release: Release, tmp_path: Path):
    found, expected = release, described(release.file, release.stable_diffusion)
    for path in (found.file, *found.stable_diffusion.iterdir()):
        (tmp_path / path.name).symlink_to(path)
    whole = described(tmp_path)
    assert whole.tasks == expected.tasks
    assert whole.schedule == expected.schedule
    assert whole.provenance["sha256 dit_moe_generalist.pt"]
    # An autoencoder alone has the scheduler beside it.
    assert described(found.file, found.stable_diffusion / "vae").schedule == expected.schedule


def described(file: Path, vae: Path | None = None, **wanted: object) -> Conversion:
    request = Request(
        name="m",
        checkpoint=find_checkpoint(str(file)),
        vae=None if vae is None else find_checkpoint(str(vae)),
        licence="apache-2.0",
        heads=SHAPE.heads,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_diffusion, "read_licence", lambda *_: "apache-2.0")
        return CONVERTERS["scaling-perception"](replace(request, **wanted))  # type: ignore[arg-type]


def test_tasks_are_the_papers(tmp_path: Path):
    release = build_generalist(
        tmp_path,
        _class_name="PNDMScheduler",
        prediction_type="epsilon",
        timestep_spacing="trailing",
    )
    conversion = described(release.file, release.stable_diffusion, steps=7, members=2)
    rows = {row.task: row for row in conversion.tasks}
    assert {row.steps for row in rows.values()} == {7}
    assert {row.members for row in rows.values()} == {2}
    assert {name: row.reduction for name, row in rows.items()} == {
        "depth": "aligned",
        "flow": "mean",
        "amodal": "median",
    }
    assert (rows["depth"].prompt, rows["depth"].prompt_value) == ("constant", 1.0)
    assert [c.label for row in conversion.tasks for c in row.components] == [1000, 1002, 1003, 1001]
    assert all(row.calibration == () for row in rows.values())
    said = " ".join(conversion.notes)
    assert "is of PNDMScheduler" in said
    assert "states prediction_type 'epsilon'" in said
    assert conversion.schedule.prediction_type == "epsilon"
    assert conversion.schedule.spacing == "trailing"


REFUSED: dict[str, tuple[Callable[[Release], Conversion], str]] = {
    "no autoencoder": (lambda found: described(found.file), "pass --vae"),
    "resolution": (
        lambda found: described(found.file, found.stable_diffusion, resolution=768),
        "--resolution is not for",
    ),
    "steps": (
        lambda found: described(found.file, found.stable_diffusion, steps=201),
        r"--steps must be in 1\.\.200",
    ),
    "no heads": (
        lambda found: described(found.file, found.stable_diffusion, heads=None),
        "no published size, .* pass --heads",
    ),
    "odd heads": (
        lambda found: described(found.file, found.stable_diffusion, heads=5),
        "cannot have 5 heads, which must divide the width",
    ),
    "no file": (lambda found: described(found.stable_diffusion), "one .pt file, and holds none"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_served_is_said(reason: str, release: Release):
    ask_for, words = REFUSED[reason]
    with pytest.raises(ConvertError, match=words):
        ask_for(release)


def test_what_the_files_lack_is_said(tmp_path: Path):
    found = build_generalist(tmp_path, prediction_type=None)
    with pytest.raises(ConvertError, match="does not state prediction_type"):
        described(found.file, found.stable_diffusion)
    (found.stable_diffusion / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ConvertError, match="scheduler of stable-diffusion-2 is needed"):
        described(found.file, found.stable_diffusion)
    torch.save({"ema": {"a": torch.zeros(2)}}, found.file)
    with pytest.raises(ConvertError, match="no network of the DiT family"):
        described(found.file, found.stable_diffusion)


@pytest.mark.parametrize(("source", "words"), [("dit", "--init"), ("dit-moe", "--init")])
def test_a_drawer_of_classes_is_for_training(
    source: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "DiT-XL-2-256x256.pt"
    path.touch()
    with pytest.raises(SystemExit) as caught:
        main([source, str(path), "--name", "m"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{words} {path}" in said
