"""What is minimised: the diffusion loss, and the direct losses that teach condition encoders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.diffusion import Diffusion
from training.models.perception import PerceptionModel
from training.targets import COMPONENTS, Example, FlowCode, shrink


@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts, and `draws` of noise per picture, which cost only denoiser passes."""

    draws: int = 2
    estimate_weight: float = 1.0
    flow_weight: float = 8.0
    flow_decay: float = 0.8  # of each coarser flow estimate, as in RAFT


def diffusion_loss(
    model: PerceptionModel,
    diffusion: Diffusion,
    example: Example,
    config: LossConfig,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Named scalar parts of the loss of one example batch; their sum is minimised."""
    batch, num_components = example.targets.shape[:2]
    with torch.no_grad():
        x_0 = model.vae.encode(example.targets.flatten(0, 1)).float()  # (B * N, C, h, w)
    encoded = model.encode(example.task, example.image, example.prompt)
    rows = batch * num_components * config.draws
    labels = torch.tensor([c.label for c in COMPONENTS[example.task]], device=x_0.device)
    label = labels.repeat(batch).repeat_interleave(config.draws)
    t = diffusion.sample_timesteps(rows, generator)
    t = t[torch.randperm(rows, generator=generator, device=t.device)]  # strata must not follow rows
    repeated = x_0.repeat_interleave(config.draws, dim=0)
    eps = torch.randn(repeated.shape, generator=generator, device=x_0.device)
    condition = encoded.condition.repeat_interleave(num_components * config.draws, dim=0)
    predicted = model.denoiser(diffusion.add_noise(repeated, eps, t), condition, t, label)
    parts = {
        "diffusion": functional.mse_loss(predicted.float(), diffusion.target(repeated, eps, t))
    }
    if model.config.form == "decoupled":
        stacked = x_0.reshape(batch, -1, *x_0.shape[2:])
        estimate = encoded.condition[:, : stacked.shape[1]].float()
        parts["estimate"] = config.estimate_weight * functional.mse_loss(estimate, stacked)
    if encoded.flows and example.flow is not None:
        parts["flow"] = config.flow_weight * flow_loss(encoded.flows, example.flow, config)
    return parts


def flow_loss(estimates: tuple[Tensor, ...], flow: Tensor, config: LossConfig) -> Tensor:
    """L1 of every estimate in the companded scale, finest last and weighted most.

    Companding makes a small motion's relative error weigh as much as a large one's.
    """
    code = FlowCode()
    truth = code.compand(shrink(flow, estimates[0].shape[-1]))
    last = len(estimates) - 1
    terms = [
        config.flow_decay ** (last - index) * functional.l1_loss(code.compand(estimate), truth)
        for index, estimate in enumerate(estimates)
    ]
    return torch.stack(terms).sum()
