"""The ray caster against closed forms and against slow, obvious marching along rays."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.procedural.families import FAMILIES
from training.data.procedural.geometry import intersect
from training.data.procedural.motion import Motion, RigidMotion, flow_between, rotation
from training.data.procedural.raycast import draw_scenes, render_depth, render_motion
from training.data.procedural.scene import NUM_LIGHTS, Camera, Scene, Solids
from training.data.procedural.shading import MATERIAL_CHANNELS

BURIED = torch.tensor([0.0, 0.0, -1e5])


def rays(size: int, spread: float = 0.8) -> tuple[Tensor, Tensor]:
    line = ((torch.arange(size) + 0.5) / size - 0.5) * 2 * spread
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x.reshape(1, -1), y.reshape(1, -1)


def to_local(centre: Tensor, axes: Tensor, half: Tensor) -> Tensor:
    """(1, 1, 3, 4) for a shape in camera coordinates."""
    return torch.cat((axes.T, -(axes.T @ centre)[:, None]), 1)[None, None] / half[:, None]


FAR_AWAY = to_local(torch.tensor([0.0, 0.0, -50.0]), torch.eye(3), torch.ones(3))
ROOM = to_local(torch.zeros(3), torch.eye(3), torch.tensor([7.0, 6.0, 5.0]))[:, 0]
FLAT = torch.zeros(1, 1, 2)


def test_a_wall_in_front_has_one_plane_depth() -> None:
    x, y = rays(16, 0.5)
    depth, entry = intersect(x, y, FAR_AWAY, FAR_AWAY, FLAT, ROOM)
    torch.testing.assert_close(depth, torch.full_like(x, 5.0))
    assert (entry == 2 + 5).all()  # one box, one quadric, then the face +z


def test_a_slanted_plane_has_the_depth_of_its_equation() -> None:
    x, y = rays(16, 0.3)
    axes = rotation(torch.tensor([0.3, 0.6, 0.0]))
    centre = torch.tensor([0.2, -0.1, 3.0])
    box = to_local(centre, axes, torch.tensor([9.0, 9.0, 0.5]))
    depth, entry = intersect(x, y, box, FAR_AWAY, FLAT, ROOM * 0.01)
    normal = axes[:, 2]
    offset = normal @ centre - 0.5
    expected = offset / (normal[0] * x + normal[1] * y + normal[2])
    assert (entry == 0).all()
    torch.testing.assert_close(depth, expected, rtol=2e-5, atol=0.0)


def test_a_ball_has_the_depth_of_its_equation() -> None:
    x, y = rays(32, 0.6)
    centre = torch.tensor([0.2, 0.1, 3.0])
    ball = to_local(centre, rotation(torch.tensor([0.4, 1.0, 2.0])), torch.ones(3))
    depth, entry = intersect(x, y, FAR_AWAY, ball, torch.tensor([[[1.0, 0.0]]]), ROOM)
    direction = torch.stack((x, y, torch.ones_like(x)), -1)
    a, b = direction.square().sum(-1), direction @ centre
    discriminant = b * b - a * (centre @ centre - 1.0)
    hit = discriminant > 0
    assert 100 < hit.sum() < 900
    assert torch.equal(entry == 1, hit)
    expected = ((b - discriminant.clamp(min=0).sqrt()) / a)[hit]
    torch.testing.assert_close(depth[hit], expected, rtol=3e-5, atol=0.0)


@pytest.mark.parametrize("profile", [(0.0, 0.0), (-0.81, 0.9), (-0.04, -0.2), (1.0, 0.0)])
def test_quadrics_against_marching_along_the_ray(profile: tuple[float, float]) -> None:
    x, y = rays(24, 0.45)
    for turn in ([0.9, 0.3, 0.0], [-2.2, 0.0, 0.5], [0.05, 0.0, 0.0], [3.1, 0.1, 0.0]):
        matrix = to_local(
            torch.tensor([0.1, 0.0, 3.0]),
            rotation(torch.tensor(turn)),
            torch.tensor([0.7, 0.5, 0.9]),
        )
        depth, entry = intersect(x, y, FAR_AWAY, matrix, torch.tensor([[profile]]), ROOM)
        t = torch.linspace(1.5, 4.8, 3301)[:, None, None]
        points = torch.stack((x * t, y * t, t.expand(-1, 1, x.shape[1])), -1)
        local = points @ matrix[0, 0, :, :3].T + matrix[0, 0, :, 3]
        k, l = profile
        value = local[..., :2].square().sum(-1) + k * local[..., 2] ** 2 + 2 * l * local[..., 2]
        inside = (value <= 1.0) & (local[..., 2].abs() <= 1.0)
        marched = torch.where(inside.any(0), t[inside.float().argmax(0)][..., 0, 0], 5.0)
        wrong = (depth - marched).abs() > 2e-3
        assert wrong.float().mean() < 0.01  # grazing rays fall between two steps
        assert (entry == 1).sum() > 20


def solids(centres: list[list[float]], half: float) -> Solids:
    count = len(centres)
    material = torch.zeros(1, count, MATERIAL_CHANNELS)
    material[..., :3] = 0.5
    return Solids(
        torch.tensor([centres]),
        torch.eye(3).expand(1, count, 3, 3),
        torch.full((1, count, 3), half),
        torch.zeros(1, count, 2),
        material,
        torch.arange(count)[None],
    )


def wall_scene(centres: list[list[float]], half: float = 0.5) -> Scene:
    """A wall 4 m in front of a camera at the origin that looks along +y, and cubes."""
    camera = Camera(
        torch.zeros(1, 3),
        torch.tensor([[[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]]]),
        torch.ones(1),
        torch.zeros(1, 2),
    )
    return Scene(
        solids(centres, half),
        solids([BURIED.tolist()], 1e-3),
        torch.zeros(1, 3),
        torch.full((1, 3), 4.0),
        torch.zeros(1, 6, MATERIAL_CHANNELS),
        torch.ones(1, NUM_LIGHTS, 7),
        torch.ones(1, 6),
        torch.tensor([[0.0, 0.1, 0.1, 0.0, 80.0, 0.1]]),
        camera,
    )


def at_rest(scene: Scene, count: int) -> Motion:
    def rest(number: int) -> RigidMotion:
        nowhere = torch.zeros(1, number, 3)
        return RigidMotion(torch.eye(3).expand(1, number, 3, 3), nowhere, nowhere)

    return Motion(rest(count), rest(1), scene.camera)


def flow_of(scene: Scene, motion: Motion, size: int) -> tuple[Tensor, Tensor, Tensor]:
    from training.data.procedural.frame import cast, pixel_rays

    depth, entry = cast(scene, *pixel_rays(scene.camera, size), False)
    moved = motion.apply(scene)
    flow, occluded = flow_between(scene, moved, motion, size, depth, entry, False)
    return flow, occluded, entry


def test_nothing_moves_nothing_flows() -> None:
    scene = wall_scene([[0.0, 2.5, 0.0]])
    flow, occluded, _ = flow_of(scene, at_rest(scene, 1), 24)
    assert flow.abs().max() < 1e-4
    assert not occluded.any()


def test_a_step_to_the_side_is_a_disparity_and_uncovers_one_side() -> None:
    size, step = 48, 0.1
    scene = wall_scene([[0.0, 2.5, 0.0]])
    camera = replace(scene.camera, position=torch.tensor([[step, 0.0, 0.0]]))
    flow, occluded, entry = flow_of(scene, replace(at_rest(scene, 1), camera=camera), size)
    cube, wall = entry == 0, entry == 2 + 3
    assert cube.sum() > 50
    assert wall.sum() > 500
    front = cube & (flow[:, 0] < -step / 2.1 * size)
    torch.testing.assert_close(
        flow[:, 0][front], torch.full_like(flow[:, 0][front], -step / 2.0 * size), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(
        flow[:, 0][wall], torch.full_like(flow[:, 0][wall], -step / 4.0 * size), rtol=1e-3, atol=0
    )
    assert flow[:, 1].abs().max() < 1e-3
    columns = torch.arange(size * size)[None] % size
    hidden = occluded & wall & (columns > 2)
    # The cube moves left over the wall, so the wall is hidden at the cube's left, nowhere else.
    assert hidden.any()
    assert columns[hidden].max() < columns[cube].min() + 1
    assert occluded[columns == 0].all()


def test_a_moving_thing_flows_alone() -> None:
    size = 48
    scene = wall_scene([[0.0, 2.5, 0.0], BURIED.tolist()])
    motion = at_rest(scene, 2)
    shift = torch.tensor([[[0.0, 0.0, 0.2], [0.0, 0.0, 0.0]]])
    motion = replace(motion, boxes=replace(motion.boxes, shift=shift))
    flow, _, entry = flow_of(scene, motion, size)
    on_cube = flow[:, 1][entry == 0]
    torch.testing.assert_close(
        on_cube, torch.full_like(on_cube, -0.2 / 2.0 * size), rtol=1e-3, atol=0
    )
    assert flow.transpose(1, 2)[entry != 0].abs().max() < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_finite_pictures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in list(FAMILIES):
        if other != name:
            monkeypatch.delitem(FAMILIES, other)
    batch = render_depth(torch.Generator().manual_seed(3), 6, 24)
    assert batch.image.shape == (6, 3, 24, 24)
    assert batch.depth.shape == (6, 1, 24, 24)
    assert batch.image.dtype == batch.depth.dtype == torch.float32
    assert batch.image.isfinite().all()
    assert batch.depth.isfinite().all()
    assert batch.image.min() >= 0.0
    assert batch.image.max() <= 1.0
    assert batch.depth.min() > 0.04
    assert batch.depth.max() <= 120.0
    assert batch.image.std((1, 2, 3)).median() > 0.05  # not blank
    spread = batch.depth.flatten(1).quantile(0.95, 1) / batch.depth.flatten(1).quantile(0.05, 1)
    assert spread.median() > 1.3


def test_a_seed_decides_everything() -> None:
    first, again, other = (
        render_motion(torch.Generator().manual_seed(seed), 4, 20) for seed in (5, 5, 6)
    )
    assert first.valid is again.valid is None  # every pixel has an answer
    for name in {field.name for field in fields(first)} - {"valid"}:
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.frame1, other.frame1)


def test_families_mix_in_one_batch() -> None:
    scene = draw_scenes(torch.Generator().manual_seed(0), 40)
    assert len(scene.room_half) == 40
    far = scene.air[:, 4]
    assert 0 < (far != 60.0).sum() < 40  # streets among interiors


def test_the_second_frame_looks_like_the_first_along_the_flow() -> None:
    size = 64
    batch = render_motion(torch.Generator().manual_seed(1), 12, size)
    line = torch.arange(size) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack((x + batch.flow[:, 0], y + batch.flow[:, 1]), -1) / (size / 2) - 1.0
    warped = F.grid_sample(batch.frame2, grid, padding_mode="border", align_corners=False)
    seen = ~batch.occluded[:, 0]
    assert seen.float().mean() > 0.5
    residual = (warped - batch.frame1).abs().mean(1)
    unmoved = (batch.frame2 - batch.frame1).abs().mean(1)
    assert residual[seen].mean() < 0.5 * unmoved[seen].mean()
    assert residual[seen].median() < 0.02
    length = batch.flow.norm(dim=1).flatten(1).median(1).values
    assert length.min() < 2.0
    assert length.max() > 5.0
