"""The part of an artifact that says how a checkpoint is sampled."""

from dataclasses import dataclass
from typing import Literal

from service.core.ddim import PredictionType
from service.core.record import require
from service.core.schedule import Betas, NoiseSchedule, Spacing, make_schedule, step_pairs

MAX_STEPS = 200  # the paper's largest budgets, and the most that a request may ask for


@dataclass(frozen=True)
class ScheduleSpec:
    """How the model was noised, what it predicts, and which timesteps sampling visits.

    `spacing` and `steps_offset` are DDIM's; a latent consistency model has timesteps of its own.
    """

    betas: Betas
    num_timesteps: int
    beta_start: float
    beta_end: float
    zero_terminal_snr: bool
    set_alpha_to_one: bool
    spacing: Spacing
    steps_offset: int
    prediction_type: PredictionType
    sampler: Literal["ddim", "lcm"]
    start: Literal["noise", "zeros"]  # x_T: zeros where a model was made deterministic

    def __post_init__(self) -> None:
        require(self.num_timesteps >= MAX_STEPS, "num_timesteps", f"must be at least {MAX_STEPS}")
        require(0 < self.beta_start <= self.beta_end, "beta_start", "must be in (0, beta_end]")
        require(self.beta_end < 1, "beta_end", "must be below 1")
        # Below the shortest stride, no step count can be pushed past the last timestep.
        largest = self.num_timesteps // MAX_STEPS - 1
        require(0 <= self.steps_offset <= largest, "steps_offset", f"must be in 0..{largest}")
        sampleable = not (self.zero_terminal_snr and self.prediction_type == "epsilon")
        require(sampleable, "prediction_type", "must not be epsilon with zero_terminal_snr")

    def build(self) -> NoiseSchedule:
        """Compute the noise levels."""
        return make_schedule(
            self.betas,
            self.num_timesteps,
            self.beta_start,
            self.beta_end,
            self.zero_terminal_snr,
            self.set_alpha_to_one,
        )

    def step_pairs(self, steps: int) -> tuple[tuple[int, int], ...]:
        """Return each step's (t, t_prev) for a budget of 1..MAX_STEPS steps."""
        return step_pairs(self.num_timesteps, steps, self.spacing, self.steps_offset)
