"""Whole public sets through the evaluation: the truth, encoded, scores perfectly."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from service.core.tasks import TaskName
from tests.training.public_sets import SIDE, grey, on_white, write_chairs, write_nyu, write_objects
from training.benchmark_sets import (
    Choices,
    EvaluationError,
    SetResult,
    judge_for,
    measure_set,
    sample_seed,
    write_scores,
)
from training.data.sample import AmodalTruth, DataError, FlowTruth, Sample
from training.data.sets import open_set
from training.models.perception import MODELS, PerceptionModel
from training.predict import ModelDraw
from training.sampler import Sampler
from training.targets import PAPER

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Oracle(Sampler):
    """Answers every request with the next of the pictures that it was given."""

    pictures_left: Iterator[np.ndarray] = field(default_factory=lambda: iter(()))
    seen: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    def pictures(
        self,
        task: TaskName,
        image: Tensor,
        prompt: Tensor | None,
        steps: int,
        members: int,
        only: str | None = None,
    ) -> dict[str, Tensor]:
        assert only is not None
        self.seen.append((image, prompt))
        picture = torch.from_numpy(next(self.pictures_left))
        return {only: picture.repeat(members, 1, 1, 1, 1)}


@pytest.fixture(scope="module")
def model() -> PerceptionModel:
    torch.manual_seed(0)
    return PerceptionModel(MODELS["tiny"]).eval()


def measure_oracle(
    model: PerceptionModel,
    name: str,
    root: Path,
    split: str,
    pictures: list[np.ndarray],
    choices: Choices | None = None,
) -> tuple[SetResult, Oracle]:
    oracle = Oracle(model, CPU, pictures_left=iter(pictures))
    samples = open_set(name, root, split)
    draw = ModelDraw(oracle, steps=1, members=3)
    *_, result = measure_set(name, samples, draw, (1, 3), choices or Choices())
    return result, oracle


def test_true_depth_scores_perfectly(model: PerceptionModel, tmp_path: Path):
    result, oracle = measure_oracle(model, "nyu_v2", tmp_path, "test", write_nyu(tmp_path))
    assert result.samples == ("test/room_1/rgb_0000.png", "test/room_1/rgb_0001.png")
    assert result.means["delta1"] == 1
    assert result.means["abs_rel"] < 2e-3  # mm, and companding between cells
    assert oracle.seen[0][0].shape == (1, 3, SIDE, SIDE)
    assert oracle.seen[0][1] is None
    with_alignment = Choices(reduction="aligned")
    pictures = write_nyu(tmp_path / "again")
    aligned, _ = measure_oracle(
        model, "nyu_v2", tmp_path / "again", "test", pictures, with_alignment
    )
    assert aligned.means["abs_rel"] < 2e-3


def test_true_flow_scores_perfectly(model: PerceptionModel, tmp_path: Path):
    result, oracle = measure_oracle(model, "flying_chairs", tmp_path, "val", write_chairs(tmp_path))
    assert result.samples == ("data/00001_img1.ppm", "data/00003_img1.ppm")
    assert result.means["epe"] == pytest.approx(0, abs=1e-4)
    assert result.means["fl_all"] == 0
    assert result.means["within_1px"] == 1
    assert result.means["pixels"] == 2 * 48 * 96
    assert oracle.seen[0][1] is not None
    swapped = [picture[[1, 0, 2]] for picture in write_chairs(tmp_path / "again")]
    wrong, _ = measure_oracle(model, "flying_chairs", tmp_path / "again", "val", swapped)
    assert wrong.means["epe"] > 3  # the axes have different units in a frame that is not square


@pytest.mark.parametrize("reading", ["mask", "appearance", "white"])
def test_true_masks_score_perfectly(model: PerceptionModel, tmp_path: Path, reading: str):
    masks = write_objects(tmp_path)
    pictures = masks if reading == "mask" else on_white(masks, (0.6, -0.9, -0.9))
    choices = Choices(reading=reading)
    result, oracle = measure_oracle(model, "pix2gestalt", tmp_path, "train", pictures, choices)
    assert len(result.samples) == 2
    assert len(result.means) == 4
    for mean in result.means.values():  # a resized corner loses two of its pixels
        assert 0.999 < mean < 1
    prompt = oracle.seen[0][1]
    assert prompt is not None
    assert set(prompt.unique().tolist()) >= {-1.0, 1.0}
    assert (prompt > 0).float().mean() == pytest.approx(40 * 64 / 256**2, abs=0.01)


def test_a_model_of_the_papers_targets_is_read_by_them(tmp_path: Path):
    config = replace(MODELS["tiny-concatenated"], targets="paper")
    paper = PerceptionModel(config).eval()
    write_chairs(tmp_path / "chairs")
    plane = np.ones((SIDE, SIDE), dtype=np.float32)
    motions = [(5.0, -3.0), (0.0, 9.0)]
    encoded = [PAPER.flow.encode(u * plane, v * plane, 96, 48) for u, v in motions]
    pictures = [grey(axis) for pair in encoded for axis in pair]  # a run for every component
    flow, _ = measure_oracle(paper, "flying_chairs", tmp_path / "chairs", "val", pictures)
    assert flow.means["epe"] == pytest.approx(0, abs=1e-4)
    assert encoded[0][0][0, 0] == pytest.approx(5 * 512 / 96 / 75)
    looks = on_white(write_objects(tmp_path / "objects"), (0.6, -0.9, -0.9))
    objects, _ = measure_oracle(paper, "pix2gestalt", tmp_path / "objects", "train", looks)
    assert objects.means["miou"] > 0.999  # without a mask of its own, from the appearance


def test_near_white_objects_are_told_apart_by_the_rule_that_is_chosen(
    model: PerceptionModel, tmp_path: Path
):
    masks = write_objects(tmp_path)
    pictures = on_white(masks, (0.975, 0.975, 0.975))  # grey level 251
    white, _ = measure_oracle(
        model, "pix2gestalt", tmp_path, "train", pictures, Choices(reading="white")
    )
    assert white.means["hidden_miou"] == 0
    assert white.means["miou"] == 0.5  # what was visible is always part of the answer


def test_objects_of_which_nothing_is_visible_and_unknown_flow_are_left_out(model: PerceptionModel):
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    nothing = np.zeros((8, 8), dtype=bool)
    hidden = Sample("hidden", (image,), AmodalTruth(nothing, ~nothing))
    some = nothing.copy()
    some[:4] = True
    seen = Sample("seen", (image,), AmodalTruth(some, some))
    oracle = Oracle(
        model, CPU, pictures_left=iter([grey(2.0 * np.tril(np.ones((SIDE, SIDE))) - 1)])
    )
    draw = ModelDraw(oracle, 1, 1)
    (result,) = measure_set("coco_a", [hidden, seen], draw, (1,), Choices())
    assert (result.samples, result.unscored) == (("seen",), 1)
    assert np.isnan(result.means["hidden_miou"])
    unknown = Sample("u", (image, image), FlowTruth(np.zeros((2, 8, 8), np.float32), nothing))
    with pytest.raises(EvaluationError, match="kitti_flow has no sample with anything to score"):
        measure_set("kitti_flow", [unknown], draw, (1,), Choices())


def test_a_measure_that_is_not_defined_is_an_empty_cell(model: PerceptionModel, tmp_path: Path):
    some = np.zeros((8, 8), dtype=bool)
    some[:4] = True
    sample = Sample("seen", (np.zeros((8, 8, 3), dtype=np.uint8),), AmodalTruth(some, some))
    oracle = Oracle(model, CPU, pictures_left=iter([grey(-np.ones((SIDE, SIDE)))]))
    (result,) = measure_set("coco_a", [sample], ModelDraw(oracle, 1, 1), (1,), Choices())
    write_scores(result, tmp_path / "a.csv")
    heading, row = (tmp_path / "a.csv").read_text().splitlines()
    cells = dict(zip(heading.split(","), row.split(","), strict=True))
    assert cells["hidden_iou"] == ""
    assert cells["iou"] == "1.0"


def test_noise_depends_on_the_seed_and_the_sample():
    seeds = {sample_seed(s, name, sample) for s in (1, 2) for name in "ab" for sample in "cd"}
    assert len(seeds) == 8
    assert sample_seed(1, "a", "c") == sample_seed(1, "a", "c")


def test_a_sample_that_does_not_fit_the_protocol_is_named(model: PerceptionModel, tmp_path: Path):
    folder = tmp_path / "test" / "room_1"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((24, 32, 3), dtype=np.uint8)).save(folder / "rgb_0001.png")
    Image.fromarray(np.full((24, 32), 2000, dtype=np.uint16)).save(folder / "depth_0001.png")
    with pytest.raises(DataError, match=r"nyu_v2, test/room_1/rgb_0001.png: the evaluation mask"):
        measure_oracle(model, "nyu_v2", tmp_path, "test", [])


def test_a_chosen_reduction_replaces_the_tasks_own():
    assert judge_for("depth", Choices()).reduction == "median"
    assert judge_for("depth", Choices(reduction="aligned")).reduction == "aligned"
