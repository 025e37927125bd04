"""A run of a small generalist on noise, for tests that start processes of their own:

`python -m tests.support.small_run JOB ...`, where a job is the JSON of a `Job`. Every step is told
on standard output when it begins.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn import functional

from training.distributed import is_first_process
from training.loop import LoopConfig, Sharding, StepResult, train
from training.models.dit import DiT, DiTConfig

CHANNELS, SIDE, ROWS = 4, 8, 2
TASKS = ("near", "near", "near", "near", "near", "far")  # steps of four see the last one or not
WEIGHTS = "model.safetensors"
SHAPE = DiTConfig(
    in_channels=2 * CHANNELS, out_channels=CHANNELS, num_labels=2, width=32, depth=2, heads=2
)


@dataclass(frozen=True)
class Job:
    """One call of `train`."""

    out: str
    steps: int = 6
    micro_batches: int = 4
    sharding: Sharding = "replicate"
    recompute: bool = False
    save_every: int = 3

    @property
    def loop(self) -> LoopConfig:
        return LoopConfig(
            steps=self.steps,
            warmup_steps=2,
            decay="constant",  # so that a shorter run is the beginning of a longer one
            bf16=False,
            micro_batches=self.micro_batches,
            sharding=self.sharding,
            recompute=self.recompute,
            save_every=self.save_every,
            log_every=2,
        )


class Generalist(nn.Module):
    """An encoder per task, one denoiser, and a part that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed = nn.Conv2d(3, CHANNELS, 1).requires_grad_(False)
        self.encoders = nn.ModuleDict(
            {task: nn.Conv2d(3, CHANNELS, 3, padding=1) for task in sorted(set(TASKS))}
        )
        self.denoiser = DiT(SHAPE)

    def forward(self, task: str, noisy: Tensor, image: Tensor, t: Tensor) -> Tensor:
        label = torch.full_like(t, float(task == "far"), dtype=torch.long)
        prediction: Tensor = self.denoiser(noisy, self.encoders[task](image), t, label)
        return prediction


def build() -> Generalist:
    """The model with no weight at zero, so that every gradient is felt."""
    torch.manual_seed(1)
    model = Generalist()
    for parameter in model.denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def run(job: Job) -> nn.Module:
    """Runs a job in this process, or with the others that torchrun launched."""
    model = build()

    def compute(index: int) -> StepResult:
        if index % job.micro_batches == 0:
            sys.stdout.write(f"step {index // job.micro_batches}\n")
            sys.stdout.flush()
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(ROWS, 3, SIDE, SIDE, generator=generator)
        noisy = torch.randn(ROWS, CHANNELS, SIDE, SIDE, generator=generator)
        task = TASKS[index % len(TASKS)]
        predicted = model(task, noisy, image, torch.arange(ROWS) * 7.0)
        loss = functional.mse_loss(predicted, model.fixed(image))
        return StepResult({"mse": loss, "size": 0.1 * predicted.square().mean()}, ROWS, task)

    ema = train(model, compute, job.loop, Path(job.out), {"job": asdict(job)})
    if is_first_process():
        save_model(ema, str(Path(job.out) / WEIGHTS))
    return ema


def main() -> None:
    torch.set_num_threads(1)
    for text in sys.argv[1:]:
        run(Job(**json.loads(text)))


if __name__ == "__main__":
    main()
