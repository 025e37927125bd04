"""The scaling studies from end to end at a size of seconds, and what they are made of."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from service.core.ddim import ddim_coefficients
from training.data.sample import DepthTruth, Sample
from training.diffusion import Diffusion
from training.loop import LoopConfig
from training.models.dit import DiT
from training.models.moe import ExpertsConfig
from training.models.vae import VaeConfig
from training.scaling import pictures, report
from training.scaling.__main__ import main
from training.scaling.coder import CoderTraining
from training.scaling.latents import DepthLatents, HeldOut
from training.scaling.lineage import Workshop, begin, epoch_rows
from training.scaling.measure import Bench, visited
from training.scaling.networks import SCHEDULES, Network, Training
from training.scaling.records import Budget, Row, read_table
from training.scaling.runner import Laboratory, Sources
from training.scaling.scale import Scale
from training.scaling.scales import TINY
from training.scaling.studies import STUDIES
from training.scaling.table import Fitted, write_study

CPU = torch.device("cpu")
MICRO = replace(
    TINY,
    name="micro",
    ladder={name: TINY.ladder[name] for name in ("t1", "t2")},
    seeds={"t1": (1,), "t2": (1,)},
    base="t1",
    size=16,
    sizes=(16,),
    side=16,
    pictures=8,
    chunk=4,
    scenes=4,
    class_pictures=32,
    coder=CoderTraining(
        pictures=4,
        rows=4,
        loop=LoopConfig(steps=2, warmup_steps=1, save_every=2),
        vae=VaeConfig(encoder_width=16, encoder_blocks=1, decoder_widths=(16, 8, 8, 8)),
    ),
    finetuning=Training(3, 4, 1e-3, 1, "cosine"),
    pretraining=Training(4, 4, 1e-3, 1, "constant"),
    pretraining_steps=(2, 4),
    pretraining_schedules=("v cosine",),
    standard_steps=(2,),
)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """A folder with the micro scale's data, made when first asked for."""
    return _laboratory(tmp_path_factory.mktemp("scaling"))


def _laboratory(folder: Path, scale: Scale = MICRO) -> Laboratory:
    return Laboratory(scale, folder, CPU, Sources(), compiled=False)


def _run(name: str, laboratory: Laboratory) -> tuple[list[Row], list[Fitted]]:
    study = STUDIES[name]
    rows = laboratory.measured(study.points(laboratory.scale))
    return rows, write_study(name, study, rows, laboratory.folder)


def test_a_study_leaves_its_table_its_figure_and_its_fits(laboratory: Laboratory):
    rows, fits = _run("model-size", laboratory)
    folder = laboratory.folder
    assert read_table(folder / "model-size.csv") == rows
    assert [row.model for row in rows] == ["t1", "t2"]
    assert rows[1].training_macs == 3 * 3 * 4 * rows[1].inference_macs // 2 > rows[0].training_macs
    assert all(0 < row.abs_rel < 2 and 0 <= row.delta1_error <= 1 < 10 * row.loss for row in rows)
    record = json.loads((folder / "model-size.json").read_text())
    assert [fit["metric"] for fit in record["fits"]] == ["loss", "abs_rel", "delta1_error"]
    assert all("2 different x" in fit["verdict"] for fit in record["fits"])
    assert not any(fit.law.supported for fit in fits)
    with Image.open(folder / "model-size.png") as figure:
        assert np.asarray(figure.convert("L")).std() > 5


def test_pretraining_is_prolonged_and_extended(laboratory: Laboratory):
    rows, _ = _run("pretraining-steps", laboratory)
    spent = [row.pretraining_macs for row in rows]
    assert spent[0] == 0
    assert spent[2] == 2 * spent[1] > 0
    assert len({row.training_macs for row in rows}) == 1
    assert len({row.loss for row in rows}) == 3  # none of them is another one


def test_what_is_measured_is_not_done_again(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
):
    before, _ = _run("model-size", laboratory)

    def refuse(self: Workshop, network: Network) -> DiT:
        raise AssertionError(f"{network.key} is trained already")

    monkeypatch.setattr(Workshop, "trained", refuse)
    again = _laboratory(laboratory.folder)
    assert _run("model-size", again)[0] == before


def test_a_lost_measurement_is_repeated_from_the_kept_network(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
):
    before, _ = _run("model-size", laboratory)
    point = STUDIES["model-size"].points(MICRO)[1]
    (laboratory.folder / "points" / f"{point.key}.json").unlink()
    monkeypatch.setattr(Workshop, "_train", None)
    again = _laboratory(laboratory.folder)
    assert _run("model-size", again)[0] == before


def test_report_replaces_what_lies_between_the_marks(laboratory: Laboratory, tmp_path: Path):
    _run("model-size", laboratory)
    page = tmp_path / "SCALING.md"
    page.write_text(f"by hand\n{report.BEGIN}\nold\n{report.END}\nalso by hand\n")
    report.write_report(laboratory.folder, page, tmp_path / "figures")
    text = page.read_text()
    assert text.startswith("by hand\n")
    assert text.endswith("\nalso by hand\n")
    assert "old" not in text
    assert "no law: 2 different x, 4 are needed" in text
    assert (tmp_path / "figures" / "model-size.png").stat().st_size < 100_000
    report.write_report(laboratory.folder, page, tmp_path / "figures")
    assert page.read_text() == text


def test_report_says_what_is_missing(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(report.ReportError, match="holds no table"):
        report.write_report(tmp_path, page)
    (tmp_path / "model-size.csv").write_text("")
    with pytest.raises(report.ReportError, match="lacks the lines"):
        report.write_report(tmp_path, page)
    with pytest.raises(report.ReportError, match="not None"):
        report.write_report(None, page)


def test_data_sets_on_disk_take_the_place_of_rendered_scenes(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _run("pretraining-steps", laboratory)
    monkeypatch.setattr(pictures, "open_set", lambda name, path, split: _SETS[split])
    given = Sources(tmp_path, laboratory.folder / "autoencoder", laboratory.folder / "classes")
    scale = replace(MICRO, coder=None, targets="paper", pretraining_steps=(2,), scenes=3)
    real = Laboratory(scale, tmp_path / "out", CPU, given, compiled=False)
    rows, _ = _run("pretraining-steps", real)
    assert [row.pretraining_macs > 0 for row in rows] == [False, True]
    assert all(0 < row.abs_rel < 2 for row in rows)


def test_held_out_pictures_are_whole_and_far_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pictures, "open_set", lambda name, path, split: _SETS[split])
    source = pictures.OnDisk(tmp_path, 8, 8, {"hypersim": 2}, "hypersim", held_out_count=2)
    batch = source.held_out(0)
    first, second = batch.depth
    assert second[0, 0, 0] - first[0, 0, 0] == pytest.approx(2)  # the first and the third of four
    assert first[0, 0, 0] < first[0, 0, 1]  # nothing is mirrored
    assert batch.valid is not None
    assert not batch.valid[:, :, -1].any()
    trained, again, other = source.training(0), source.training(0), source.training(1)
    assert torch.equal(trained.depth, again.depth)
    assert not torch.equal(trained.depth, other.depth)
    assert trained.image.shape == (2, 3, 8, 8)


def _sample(number: int) -> Sample:
    """A picture of 12 x 16 px whose depth grows from `number` m in waves, unknown below."""
    across = np.linspace(0, 1, 16, dtype=np.float32)
    depth = np.broadcast_to(number + across + 30 * np.sin(9 * across) ** 2, (12, 16)).copy()
    valid = np.ones((12, 16), dtype=np.bool_)
    valid[-2:] = False
    image = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Sample(f"{number}", (image,), DepthTruth(depth, valid))


_SETS = {
    "train": [_sample(number) for number in range(1, 9)],
    "val": [_sample(number) for number in range(100, 104)],
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["all"], "--out is needed"),
        (["all", "--scale", "paper", "--out", "x"], "--data, --vae, --classes"),
        (["report", "nowhere"], "report needs the folder"),
    ],
)
def test_wrong_command_lines_end_with_one_sentence(
    arguments: Sequence[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_upcycled_networks_begin_as_the_dense_one():
    dense = TINY.finetuned("t1")
    parent = _random(begin(dense, None))
    experts = ExpertsConfig(4, 2, renormalise=True)
    upcycled = begin(TINY.trained_further("t1", experts), parent).eval()
    further = begin(TINY.trained_further("t1", None), parent).eval()
    inputs = _inputs(dense)
    expected = parent(*inputs)
    assert expected.std() > 0.1
    torch.testing.assert_close(upcycled(*inputs), expected)
    torch.testing.assert_close(further(*inputs), expected)


def test_extended_networks_answer_two_equal_latents_as_the_class_network_answers_one():
    classes = TINY.pretrained("t1", TINY.pretraining_steps[0])
    parent = _random(begin(classes, None))
    network = TINY.finetuned("t1", pretraining=TINY.pretraining_steps[0])
    extended = begin(network, parent)
    noisy, _, t, _ = _inputs(network)
    none = torch.full((2,), classes.model.num_labels - 1)
    none_extended = torch.full((2,), network.model.num_labels - 1)
    torch.testing.assert_close(
        extended(noisy, noisy, t, none_extended), parent(noisy, None, t, none)
    )


def test_every_epoch_shows_every_picture_once_in_a_new_order():
    batches = [epoch_rows(10, 4, index, (1, 0)) for index in range(5)]
    shown = np.concatenate(batches).reshape(2, 10)
    assert (np.sort(shown, axis=1) == np.arange(10)).all()
    assert (shown[0] != shown[1]).any()
    assert (epoch_rows(10, 4, 3, (1, 0)) == batches[3]).all()
    assert (epoch_rows(10, 4, 0, (2, 0)) != batches[0]).any()


def test_leading_steps_begin_almost_without_noise_where_there_is_one():
    spec = SCHEDULES["v cosine"]
    assert visited(spec, Budget(1, spacing="leading"))[1] == ((1, -999),)
    assert visited(spec, Budget(1))[1] == ((999, -1),)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
def test_steps_of_another_schedule_have_its_noise_levels(betas):
    spec = SCHEDULES["v cosine"]
    schedule, steps = visited(spec, Budget(10, betas=betas))
    times = [t for t, _ in steps]
    assert times == sorted(times, reverse=True)
    assert [t_prev for _, t_prev in steps] == [*times[1:], -1]
    other = SCHEDULES[f"v {betas}"]
    asked = other.build().alpha_bar[[t for t, _ in other.step_pairs(10)]]
    assert schedule.alpha_bar[times] == pytest.approx(asked, abs=2e-3)
    assert times != [t for t, _ in spec.step_pairs(10)]


@pytest.mark.parametrize("schedule", ["v cosine", "epsilon linear"])
@pytest.mark.parametrize("members", [(1,), (1, 3)])
def test_a_network_that_knows_the_answer_has_no_error(schedule: str, members: tuple[int, ...]):
    network = replace(TINY.finetuned("t1", schedule=schedule), size=16)
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(3, 4, 2, 2, generator=generator)
    latents = DepthLatents(target.numpy().astype(np.float16), target.numpy().astype(np.float16))
    target = torch.from_numpy(latents.target.astype(np.float32))
    unit = (_Coder().decode(target).mean(dim=1, keepdim=True) + 1) / 2
    depth = 1 + Bench.encoding.decode((2 * unit - 1).clamp(-1, 1).numpy())
    scenes = HeldOut(torch.from_numpy(depth), torch.ones(3, 1, 16, 16).bool(), {16: latents})
    bench = Bench(scenes, _Coder(), CPU)
    oracle = _Oracle(network, target)
    scores = bench.scores(network, oracle, Budget(4, members=members))  # type: ignore[arg-type]
    assert [score.members for score in scores] == list(members)
    assert max(score.abs_rel for score in scores) < 1e-2
    assert max(score.delta1_error for score in scores) == 0
    assert bench.loss(network, oracle) < 1e-3  # type: ignore[arg-type]


class _Coder:
    """Latents are the picture, coarser."""

    def encode(self, image: Tensor) -> Tensor:
        raise AssertionError("measuring only decodes")

    def decode(self, latent: Tensor) -> Tensor:
        smooth = torch.nn.functional.interpolate(latent[:, :3], scale_factor=8.0, mode="nearest")
        return smooth.tanh()


class _Oracle:
    """Says what a network should, since it knows the targets in the order of the scenes."""

    def __init__(self, network: Network, target: Tensor) -> None:
        self._diffusion = Diffusion(SCHEDULES[network.schedule], CPU)
        self._alpha_bar = torch.from_numpy(SCHEDULES[network.schedule].build().alpha_bar).float()
        self._target = target

    def __call__(self, noisy: Tensor, condition: Tensor, t: Tensor, label: Tensor) -> Tensor:
        alpha_bar = self._alpha_bar[t][:, None, None, None]
        eps = (noisy - alpha_bar.sqrt() * self._target) / (1 - alpha_bar).sqrt()
        return self._diffusion.target(self._target, eps, t)


def _random(model: DiT) -> DiT:
    """With nothing left at zero, in training's own evaluation mode."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def _inputs(network: Network) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    noisy, image = torch.randn(2, 2, 4, 4, 4, generator=generator)
    return noisy, image, torch.tensor([10, 900]), torch.full((2,), network.model.num_labels - 2)


def test_ddim_of_the_oracle_is_exact_in_one_step():
    schedule, steps = visited(SCHEDULES["v cosine"], Budget(1))
    ((t, t_prev),) = steps
    a, b = ddim_coefficients(schedule, "v", np.array([t]), np.array([t_prev]))
    assert (a[0], b[0]) == (0, -1)  # the prediction is minus the answer
