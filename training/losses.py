"""What is minimised: the diffusion loss, and the direct losses that teach condition encoders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from service.core.record import require
from training.diffusion import Diffusion
from training.models.moe import expert_balance
from training.models.perception import PerceptionModel
from training.regridding import shrink
from training.targets import Example, FlowCode


@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts, and `draws` of noise per picture, which cost only denoiser passes."""

    draws: int = 2
    estimate_weight: float = 1.0
    flow_weight: float = 8.0
    flow_decay: float = 0.8  # of each coarser flow estimate, as in RAFT

    def __post_init__(self) -> None:
        require(self.draws >= 1, "draws", "must be at least 1")


def diffusion_loss(
    model: PerceptionModel,
    diffusion: Diffusion,
    example: Example,
    config: LossConfig,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Named scalar parts of the loss of one example batch; their sum is minimised.

    Cells of the latent grid that cover an invalid pixel have no part in it. A denoiser may answer
    more channels than a latent has, such as variances: only the first C are judged.
    """
    batch, num_components = example.targets.shape[:2]
    with torch.no_grad():
        x_0 = model.vae.encode(example.targets.flatten(0, 1)).float()  # (B * N, C, h, w)
    known = None if example.valid is None else latent_mask(example.valid, x_0.shape[-1])
    encoded = model.encode(example.task, example.image, example.prompt)
    rows = batch * num_components * config.draws
    labels = torch.tensor([c.label for c in model.components(example.task)], device=x_0.device)
    label = labels.repeat(batch).repeat_interleave(config.draws)
    t = diffusion.sample_timesteps(rows, generator)
    t = t[torch.randperm(rows, generator=generator, device=t.device)]  # strata must not follow rows
    repeated = x_0.repeat_interleave(config.draws, dim=0)
    eps = torch.randn(repeated.shape, generator=generator, device=x_0.device)
    condition = encoded.condition.repeat_interleave(num_components * config.draws, dim=0)
    predicted = model.denoiser(diffusion.add_noise(repeated, eps, t), condition, t, label)
    predicted = predicted[:, : x_0.shape[1]].float()
    parts = {"diffusion": masked_mse(predicted, diffusion.target(repeated, eps, t), known)}
    if (balance := expert_balance(model.denoiser)) is not None:
        parts["balance"] = balance
    if model.config.form == "decoupled":
        stacked = x_0.reshape(batch, -1, *x_0.shape[2:])
        estimate = encoded.condition[:, : stacked.shape[1]].float()
        parts["estimate"] = config.estimate_weight * masked_mse(estimate, stacked, known)
    if encoded.flows and example.flow is not None:
        flow = flow_loss(encoded.flows, example.flow, config, example.valid)
        parts["flow"] = config.flow_weight * flow
    return parts


def latent_mask(valid: Tensor, size: int) -> Tensor:
    """Cells (B, 1, size, size) of a latent grid all of whose pixels (B, 1, P, P) are valid.

    As Marigold has it: a latent that saw an invalid pixel says nothing about the others either.
    """
    return functional.max_pool2d((~valid).float(), valid.shape[-1] // size) == 0


def masked_mse(predicted: Tensor, target: Tensor, known: Tensor | None) -> Tensor:
    """Mean square error of (B n, C, h, w) where `known` (B, 1, h, w), repeated for each n.

    0 where nothing is known at all.
    """
    if known is None:
        return functional.mse_loss(predicted, target)
    cells = known.repeat_interleave(len(target) // len(known), dim=0).expand_as(target)
    squares = torch.where(cells, (predicted - target).square(), 0.0)
    return squares.sum() / cells.sum().clamp(min=1)


def flow_loss(
    estimates: tuple[Tensor, ...], flow: Tensor, config: LossConfig, valid: Tensor | None = None
) -> Tensor:
    """L1 of every estimate in the companded scale, finest last and weighted most.

    Companding makes a small motion's relative error weigh as much as a large one's. Of what is not
    `valid` (B, 1, P, P), nothing is asked.
    """
    code = FlowCode()
    side = estimates[0].shape[-1]
    truth = code.compand(shrink(flow, side))
    known = None if valid is None else (shrink(valid.float(), side) > 0.5).expand_as(truth)
    last = len(estimates) - 1
    terms = [
        config.flow_decay ** (last - index) * _masked_l1(code.compand(estimate), truth, known)
        for index, estimate in enumerate(estimates)
    ]
    return torch.stack(terms).sum()


def _masked_l1(predicted: Tensor, target: Tensor, known: Tensor | None) -> Tensor:
    if known is None:
        return functional.l1_loss(predicted, target)
    errors = torch.where(known, (predicted - target).abs(), 0.0)
    return errors.sum() / known.sum().clamp(min=1)
