"""`python -m training.data`: what it says of good and of broken downloads, and what it draws."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from training.data.__main__ import main
from training.data.check import check_set, first_split, read_truth, spread
from training.data.contact_sheet import contact_sheet, depth_colors, fit, flow_colors
from training.data.sample import AmodalTruth, DataError, DepthTruth, FlowTruth, Sample
from training.data.sets import SETS

HEIGHT, WIDTH = 40, 60
SCENE = "val/ai_001_001"
RANDOM = np.random.default_rng(11)


def photograph() -> np.ndarray:
    return RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def write_frame(root: Path, number: int, depth: int = 2000) -> None:
    folder = root / SCENE
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph()).save(folder / f"rgb_cam_00_fr{number:04d}.png")
    values = np.full((HEIGHT, WIDTH), depth, np.uint16)
    Image.fromarray(values).save(folder / f"depth_plane_cam_00_fr{number:04d}.png")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The current folder, where sheets are drawn by default."""
    folder = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    for number in range(5):
        write_frame(tmp_path, number, 1000 * (number + 1))
    return tmp_path


def run(*arguments: object) -> tuple[int, str]:
    """The exit code, and what was printed."""
    console = Console(file=io.StringIO(), width=160)
    code = main([str(argument) for argument in arguments], console)
    output = console.file
    assert isinstance(output, io.StringIO)
    return code, output.getvalue()


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The last line of what a wrong command answers; it exits with 2."""
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_good_download(frames: Path):
    code, said = run("check", "hypersim", frames, "--split", "val", "--partial")
    assert code == 0
    assert "nothing was found to be wrong" in said
    assert "5 of 5 tried" in said
    assert "60 x 40 (5)" in said
    assert "1 to 5 m" in said
    assert "100.0% on average" in said


def test_an_incomplete_download(frames: Path):
    code, said = run("check", "hypersim", frames)
    assert code == 1
    assert "split val" in said  # the first that is there
    assert "5 samples, 7,370 are published" in said


def test_every_kind_of_damage_is_found(frames: Path):
    (frames / SCENE / "depth_plane_cam_00_fr0001.png").unlink()
    (frames / SCENE / "rgb_cam_00_fr0002.png").write_bytes(b"not a picture")
    write_frame(frames, 3, depth=0)
    Image.new("RGB", (WIDTH, HEIGHT)).save(frames / SCENE / "rgb_cam_00_fr0004.png")
    report = check_set(SETS["hypersim"], frames, "val", partial=True)
    found = {finding.where: finding.what for finding in report.findings}
    assert "depth_plane_cam_00_fr0001.png cannot be read" in found["sample 1"]
    assert "rgb_cam_00_fr0002.png cannot be read" in found["sample 2"]
    assert found[f"{SCENE}/rgb_cam_00_fr0003.png"] == "no pixel has valid depth"
    assert found[f"{SCENE}/rgb_cam_00_fr0004.png"] == "a picture is of one value"
    assert len(found) == 4
    assert report.read == (0, 3, 4)
    code, said = run("check", "hypersim", frames, "--partial")
    assert code == 1
    assert "3 of 5 tried" in said


def test_a_limit_spreads_over_the_set(frames: Path):
    (frames / SCENE / "rgb_cam_00_fr0001.png").unlink()
    report = check_set(SETS["hypersim"], frames, "val", limit=2, partial=True)
    assert report.read == (0, 3)  # the ends of the four that are left
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(3, 10) == spread(3, None) == [0, 1, 2]
    assert spread(0, None) == []


def test_a_folder_of_something_else(tmp_path: Path):
    code, said = run("check", "hypersim", tmp_path)
    assert code == 1
    assert "hypersim cannot be opened: train: " in said
    for split in SETS["hypersim"].splits:
        assert str(tmp_path / split) in said.replace("\n", "")
    with pytest.raises(DataError, match="val: "):
        first_split(SETS["hypersim"], tmp_path)


def test_wrong_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    good = ("check", "hypersim", tmp_path)
    assert "no data set is called 'hyper'" in usage_error(capsys, "check", "hyper", tmp_path)
    assert "no split 'dev', only train" in usage_error(capsys, *good, "--split", "dev")
    assert "is not a folder" in usage_error(capsys, "check", "hypersim", tmp_path / "absent")
    assert "'0' is not a whole number above 0" in usage_error(capsys, *good, "--limit", 0)
    assert "no ending of a picture" in usage_error(capsys, *good, "--sheet", "sheet.txt")
    assert "required: command" in usage_error(capsys)


def test_the_list_names_every_set():
    code, said = run("list")
    assert code == 0
    for info in SETS.values():
        assert info.name in said
        assert info.licence in said
        assert info.source in said
        assert all(pattern in said for pattern in info.layout)


def test_a_sheet_is_drawn(frames: Path):
    sheet = frames / "made" / "sheet.png"
    (frames / SCENE / "rgb_cam_00_fr0002.png").write_bytes(b"not a picture")
    code, said = run("check", "hypersim", frames, "--sheet", sheet)
    assert code == 1
    assert "drew 4 samples" in said
    with Image.open(sheet) as image:
        assert image.width > 2 * 256
        assert len(image.convert("RGB").resize((64, 64)).getcolors(4096) or ()) > 100


def test_a_sheet_is_drawn_without_being_asked_for(frames: Path, in_a_folder_of_its_own: Path):
    code, said = run("check", "hypersim", frames, "--split", "val", "--partial")
    assert code == 0
    assert "drew 5 samples to hypersim-val.png" in said
    assert (in_a_folder_of_its_own / "hypersim-val.png").is_file()


def square() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 10:30] = True
    return mask


def test_readings_of_depth_and_flow():
    depth = np.full((HEIGHT, WIDTH), 3, np.float32)
    half = np.arange(WIDTH) < WIDTH // 2
    reading = read_truth(DepthTruth(depth, np.broadcast_to(half, depth.shape)))
    assert (reading.share, reading.low, reading.high, reading.problems) == (0.5, 3, 3, ())
    flow = np.zeros((2, HEIGHT, WIDTH), np.float32)
    flow[:, 5, 5] = 3, -4
    everywhere = np.ones((HEIGHT, WIDTH), bool)
    reading = read_truth(FlowTruth(flow, everywhere))
    assert (reading.low, reading.high, reading.problems) == (0, 5, ())
    (problem,) = read_truth(FlowTruth(flow * 100, everywhere)).problems
    assert problem == "something moves by 500 px, further than the picture is wide"
    (problem,) = read_truth(FlowTruth(flow, ~everywhere)).problems
    assert problem == "no pixel has valid flow"


def test_readings_of_masks():
    visible = square()
    visible[10:20] = False
    reading = read_truth(AmodalTruth(visible, square()))
    assert reading.share == square().mean()
    assert (reading.low, reading.high, reading.problems) == (50, 50, ())
    assert read_truth(AmodalTruth(np.zeros_like(visible), square())).problems == ()  # fully hidden
    (problem,) = read_truth(AmodalTruth(square(), visible)).problems
    assert problem == "200 of 400 visible pixels are not in the whole mask"
    nothing = np.zeros_like(visible)
    (problem,) = read_truth(AmodalTruth(nothing, nothing)).problems
    assert problem == "the mask of the whole object is empty"


@pytest.mark.parametrize("count", [1, 3, 12])
def test_sheets_of_every_task(count: int):
    valid = RANDOM.random((HEIGHT, WIDTH)) < 0.1
    depth = DepthTruth(np.where(valid, 5, 0).astype(np.float32), valid)
    flow = FlowTruth(RANDOM.normal(size=(2, HEIGHT, WIDTH)).astype(np.float32), valid, square())
    amodal = AmodalTruth(square(), square(), photograph())
    first, second = photograph(), photograph()
    for truth, images in ((depth, (first,)), (flow, (first, second)), (amodal, (first,))):
        samples = [Sample("a/very/long/" * 20 + "name.png", images, truth)] * count
        one = contact_sheet("a title", samples[:1])
        sheet = contact_sheet("a title", samples)
        assert sheet.width >= one.width
        assert (sheet.height > one.height) == (count > max(1, sheet.width // (one.width - 12)))
    with pytest.raises(ValueError, match="needs a sample"):
        contact_sheet("a title", [])


def test_nothing_valid_is_drawn_too():
    nothing = np.zeros((HEIGHT, WIDTH), bool)
    depth = DepthTruth(np.zeros((HEIGHT, WIDTH), np.float32), nothing)
    flow = FlowTruth(np.zeros((2, HEIGHT, WIDTH), np.float32), nothing)
    contact_sheet("depth", [Sample("a", (photograph(),), depth)])
    contact_sheet("flow", [Sample("a", (photograph(), photograph()), flow)])


def test_colours_of_depth_and_flow():
    depth = np.tile(np.linspace(1, 9, WIDTH, dtype=np.float32), (HEIGHT, 1))
    colors = depth_colors(depth, depth > 0).astype(int)
    near, far = colors[0, 0], colors[0, -1]
    assert near[0] > near[1] + 50  # red
    assert far[2] > far[1] + 50  # violet
    right, down, still = flow_colors(
        np.array([[[5, 0, 0]], [[0, 5, 0]]], np.float32), np.ones((1, 3), bool)
    )[0]
    assert still.tolist() == [255, 255, 255]
    assert right.tolist() == [255, 0, 0]
    assert down.tolist() != right.tolist()


def test_sparse_values_keep_their_colour_when_they_are_made_small():
    colors = np.zeros((512, 1024, 3), np.uint8)
    valid = np.zeros((512, 1024), bool)
    colors[::4, ::4] = 200, 100, 50
    valid[::4, ::4] = True
    valid[:256] = False
    small = fit(colors, valid)
    assert small.shape == (128, 256, 3)
    assert (small[64:] == (200, 100, 50)).all()
    assert (small[:64] == small[0, 0]).all()
    assert (small[0, 0] != small[-1, -1]).all()
