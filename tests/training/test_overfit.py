"""Every form of the model can learn every task: one batch by heart, until samples are right."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.core.tasks import TaskName
from training.data.mixture import seeded
from training.data.sample import AmodalBatch, Batch, DepthBatch, FlowBatch
from training.diffusion import SCHEDULE, Diffusion
from training.losses import LossConfig, diffusion_loss
from training.models import perception
from training.models.perception import MODELS, ModelConfig, PerceptionModel
from training.models.vae import VaeConfig
from training.sampler import Sampler
from training.targets import COMPONENTS, Example, prepare

CPU = torch.device("cpu")
SIDE, CELLS, ROWS = 64, 8, 2
STEPS, RATE = 120, 4e-3

FORMS: dict[str, ModelConfig] = {
    "decoupled": MODELS["tiny"],
    "concatenated": MODELS["tiny-concatenated"],
    "experts": MODELS["tiny-moe"],
    "paper": replace(MODELS["tiny-concatenated"], targets="paper"),
}


class Cells(nn.Module):
    """An autoencoder that loses nothing of pictures made of flat cells."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, image: Tensor) -> Tensor:
        return functional.pad(functional.avg_pool2d(image, 8), (0, 0, 0, 0, 0, 1))

    encode = forward

    def decode(self, latent: Tensor) -> Tensor:
        return functional.interpolate(latent[:, :3], scale_factor=8.0, mode="nearest")

    def frozen_encoding(self) -> nn.Module:
        return self


def cells(channels: int, seed: int) -> Tensor:
    """Flat cells (ROWS, channels, SIDE, SIDE) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(ROWS, channels, CELLS, CELLS, generator=generator)
    return functional.interpolate(coarse, size=(SIDE, SIDE), mode="nearest")


def batch(task: TaskName) -> Batch:
    amodal = (cells(1, 5) > 0.4).float()
    batches: dict[TaskName, Batch] = {
        "depth": DepthBatch(cells(3, 1), 1 + 4 * cells(1, 2)),
        "flow": FlowBatch(
            cells(3, 1), cells(3, 3), 16 * cells(2, 4) - 8, torch.zeros(ROWS, 1, SIDE, SIDE) > 0
        ),
        "amodal": AmodalBatch(
            cells(3, 1), amodal * (cells(1, 6) > 0.5), amodal, amodal * cells(3, 7) + 1 - amodal
        ),
    }
    return batches[task]


@pytest.mark.parametrize(
    ("form", "task"),
    [
        *((form, task) for form in ("decoupled", "concatenated") for task in COMPONENTS),
        ("experts", "depth"),
        ("paper", "flow"),
    ],
)
def test_one_batch_is_learned_by_heart(form: str, task: TaskName, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(perception, "build_autoencoder", Cells)
    torch.manual_seed(0)
    model = PerceptionModel(FORMS[form]).train()
    example = prepare(batch(task), SIDE, model.config.table)
    losses = learn(model, example)
    assert sum(losses[-3:]) < 0.2 * sum(losses[:3])
    sampler = Sampler(model.eval(), CPU, seed=3)
    for index, component in enumerate(model.components(task)):
        drawn = sampler.pictures(task, example.image, example.prompt, 10, 1, component.name)
        for field, channels in component.channels.items():
            truth = example.targets[:, index, channels[0]]
            found = drawn[component.name][0][:, list(channels)].mean(dim=1)
            error, spread = (found - truth).abs().mean(), truth.std()
            assert error < 0.15 * spread, field


def learn(model: PerceptionModel, example: Example) -> list[float]:
    """Trains on one example; the diffusion loss of every step."""
    diffusion, config = Diffusion(SCHEDULE, CPU), LossConfig(draws=16)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.98), weight_decay=0)
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 10, 2 * (1 - step / STEPS))
        parts = diffusion_loss(model, diffusion, example, config, seeded(CPU, step))
        losses.append(float(parts["diffusion"].detach()))
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(parts.values())).sum())
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    return losses
