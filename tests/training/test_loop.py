"""The training loop on a model small enough to follow by hand."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.core.record import ArtifactError
from training.checkpoint import CheckpointError, latest_checkpoint, load_weights
from training.distributed import LaunchError
from training.loop import (
    DivergedError,
    LoopConfig,
    StepResult,
    learning_rate,
    reduced_precision,
    train,
)

CONFIG = LoopConfig(
    steps=7, learning_rate=0.05, warmup_steps=2, ema_decay=0.5, save_every=3, log_every=2
)
Compute = Callable[[int], StepResult]


class Line(nn.Module):
    """A line to be fitted, with an offset that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.3, -0.7]))
        self.offset = nn.Parameter(torch.tensor(0.25), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.slope + self.offset


def fitting(model: Line, interruption: Callable[[int], None] = lambda step: None) -> Compute:
    def compute(step: int) -> StepResult:
        interruption(step)
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(step))
        error = model(x) - x @ torch.tensor([1.0, 2.0])
        parts = {"square": error.square().mean(), "absolute": 0.1 * error.abs().mean()}
        return StepResult(parts, 8, "line")

    return compute


def run(folder: Path, config: LoopConfig = CONFIG) -> tuple[Line, nn.Module]:
    model = Line()
    return model, train(model, fitting(model), config, folder, {"name": "line"})


def test_learning_rate_warms_up_and_falls_along_half_a_cosine():
    config = LoopConfig(steps=110, learning_rate=1.0, warmup_steps=10, final_fraction=0.1)
    assert [learning_rate(config, step) for step in range(10)] == pytest.approx(
        [0.1 * (step + 1) for step in range(10)]
    )
    assert learning_rate(config, 10) == pytest.approx(1.0)
    assert learning_rate(config, 60) == pytest.approx(0.55)
    assert learning_rate(config, 35) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(config, 110) == pytest.approx(0.1)
    assert learning_rate(config, 500) == pytest.approx(0.1)
    assert learning_rate(replace(config, warmup_steps=0), 0) == pytest.approx(1.0)


def test_an_exponential_decay_loses_the_same_share_in_equal_times():
    config = LoopConfig(
        steps=110, learning_rate=2.0, warmup_steps=10, final_fraction=0.01, decay="exponential"
    )
    assert learning_rate(config, 4) == pytest.approx(1.0)
    assert learning_rate(config, 10) == pytest.approx(2.0)
    assert learning_rate(config, 60) == pytest.approx(0.2)
    assert learning_rate(config, 85) == pytest.approx(2.0 * 10**-1.5)
    assert learning_rate(config, 500) == pytest.approx(0.02)
    constant = replace(config, decay="constant", final_fraction=0.0)
    assert [learning_rate(constant, step) for step in (10, 60, 110)] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"micro_batches": 0}, "micro_batches"),
        ({"spike_patience": 0}, "spike_patience"),
        ({"save_every": 0}, "save_every"),
        ({"log_every": 0}, "log_every"),
        ({"decay": "exponential", "final_fraction": 0.0}, "final_fraction"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings: dict[str, object], field: str):
    with pytest.raises(ArtifactError, match=field):
        replace(CONFIG, **settings)  # type: ignore[arg-type]


def test_what_cannot_be_recomputed_is_not_pretended(tmp_path: Path):
    with pytest.raises(LaunchError, match="no part of Line"):
        run(tmp_path, replace(CONFIG, recompute=True))


def test_only_what_requires_a_gradient_is_trained(tmp_path: Path):
    model, ema = run(tmp_path, replace(CONFIG, steps=40, learning_rate=0.3, save_every=40))
    assert (model.slope - torch.tensor([1.0, 2.0])).abs().max() < 0.3
    assert float(model.offset) == 0.25
    assert isinstance(ema, Line)
    assert float(ema.offset) == 0.25
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    assert list((tmp_path / "curves").iterdir())


def test_the_update_is_adamw_at_the_scheduled_rate_on_clipped_gradients(tmp_path: Path):
    config = replace(CONFIG, clip_norm=0.5)
    model, _ = run(tmp_path, config)
    expected = Line()
    compute = fitting(expected)
    optimizer = torch.optim.AdamW([expected.slope], betas=(0.9, 0.98), weight_decay=0.02)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        parts = compute(step).parts
        optimizer.zero_grad()
        (parts["square"] + parts["absolute"]).backward()
        assert expected.slope.grad is not None
        norm = float(expected.slope.grad.norm())
        expected.slope.grad.mul_(min(1.0, 0.5 / norm))
        optimizer.step()
    torch.testing.assert_close(model.slope, expected.slope)


def test_the_average_follows_the_weights(tmp_path: Path):
    averages = []
    expected = Line().slope.detach().clone()
    for steps in range(1, 6):
        config = replace(CONFIG, steps=steps, save_every=1, learning_rate=0.05, warmup_steps=100)
        model, ema = run(tmp_path, config)  # each goes on from the one before
        decay = min(0.5, (1 + steps) / (10 + steps))
        expected = decay * expected + (1 - decay) * model.slope.detach()
        averages.append((ema, expected))
    for ema, value in averages:
        assert isinstance(ema, Line)
        torch.testing.assert_close(ema.slope, value)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path: Path):
    model, ema = run(tmp_path / "whole")

    def stop(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    broken = Line()
    with pytest.raises(KeyboardInterrupt):
        train(broken, fitting(broken, stop), CONFIG, tmp_path / "broken", {})
    found = latest_checkpoint(tmp_path / "broken" / "checkpoints")
    assert found is not None
    assert found.name == "00000003"
    resumed, resumed_ema = run(tmp_path / "broken")
    assert torch.equal(resumed.slope, model.slope)
    for value, expected in zip(resumed_ema.parameters(), ema.parameters(), strict=True):
        assert torch.equal(value, expected)


def test_a_finished_run_is_not_trained_again(tmp_path: Path):
    _, ema = run(tmp_path)
    model = Line()
    again = train(model, _never, CONFIG, tmp_path, {})
    assert isinstance(again, Line)
    assert isinstance(ema, Line)
    assert torch.equal(again.slope, ema.slope)


def _never(step: int) -> StepResult:
    raise AssertionError(f"step {step} was computed")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path, bad: float):
    model = Line()
    good = fitting(model)

    def compute(step: int) -> StepResult:
        result = good(step)
        factor = bad if step == 4 else 1.0
        return replace(result, parts={k: factor * v for k, v in result.parts.items()})

    with pytest.raises(DivergedError, match=r"step 4.*learning_rate.*00000003"):
        train(model, compute, CONFIG, tmp_path, {})
    assert model.slope.isfinite().all()  # the bad step was not taken
    checkpoint = latest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    kept = Line()
    for name in ("model", "ema"):
        load_weights(kept, checkpoint / f"{name}.safetensors")
        assert kept.slope.isfinite().all()
    resumed, _ = run(tmp_path)
    assert torch.equal(resumed.slope, run(tmp_path / "whole")[0].slope)


def test_a_loss_that_is_no_number_stops_the_run_whatever_its_gradient(tmp_path: Path):
    model = Line()
    good = fitting(model)

    def compute(step: int) -> StepResult:
        result = good(step)
        return replace(result, parts={**result.parts, "lost": torch.tensor(math.nan)})

    with pytest.raises(DivergedError, match=r"step 0; lower loop\.learning_rate, then begin again"):
        train(model, compute, CONFIG, tmp_path, {})


def spiking(model: Line, bad: Callable[[int], bool]) -> Compute:
    """Losses of two tasks, one a thousand times the other, that jump where they are bad."""

    def compute(step: int) -> StepResult:
        scale = (1.0, 1000.0)[step % 2] * (50.0 if bad(step) else 1.0)
        loss = scale * (1.0 + 0.0 * model.slope.sum())
        return StepResult({"loss": loss}, 1, ("small", "large")[step % 2])

    return compute


SPIKES = replace(
    CONFIG, steps=40, save_every=4, warmup_steps=4, spike_factor=10.0, spike_patience=3
)


def test_spikes_in_a_row_stop_the_run_and_keep_the_last_good_checkpoint(tmp_path: Path):
    model = Line()
    bad = spiking(model, lambda step: step >= 18 and step % 2 == 1)  # 19, 21, 23
    with pytest.raises(DivergedError, match=r"large.*3 times at step 23.*00000016"):
        train(model, bad, SPIKES, tmp_path, {})
    latest = latest_checkpoint(tmp_path / "checkpoints")
    assert latest is not None
    assert latest.name == "00000016"  # not 20, when the first spike had been seen


def test_a_resumed_run_knows_what_was_ordinary(tmp_path: Path):
    model = Line()
    train(model, spiking(model, lambda step: False), replace(SPIKES, steps=8), tmp_path, {})
    model = Line()
    with pytest.raises(DivergedError, match=r"at step 12.*00000008"):
        train(model, spiking(model, lambda step: True), SPIKES, tmp_path, {})


@pytest.mark.parametrize(
    ("bad", "changed"),
    [
        (lambda step: step in (19, 21, 25, 27), SPIKES),  # never three in a row
        (lambda step: step < 4, SPIKES),  # while warming up
        (lambda step: step >= 18, replace(SPIKES, spike_factor=0.0)),
    ],
)
def test_noise_does_not_stop_a_run(tmp_path: Path, bad: Callable[[int], bool], changed: LoopConfig):
    model = Line()
    train(model, spiking(model, bad), changed, tmp_path, {})
    latest = latest_checkpoint(tmp_path / "checkpoints")
    assert latest is not None
    assert latest.name == "00000040"


def test_weights_that_are_not_finite_are_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = Line()
    good, real = fitting(model), torch.optim.AdamW.step

    def breaking(self: torch.optim.AdamW, closure: None = None) -> None:
        real(self, closure)
        if len(steps) == 6:
            with torch.no_grad():
                model.slope[0] = math.inf

    steps: list[int] = []

    def compute(step: int) -> StepResult:
        steps.append(step)
        return good(step)

    monkeypatch.setattr(torch.optim.AdamW, "step", breaking)
    with pytest.raises(DivergedError, match=r"not finite at step 6.*00000003"):
        train(model, compute, CONFIG, tmp_path, {})
    latest = latest_checkpoint(tmp_path / "checkpoints")
    assert latest is not None
    assert latest.name == "00000003"


def test_another_models_checkpoint_is_refused(tmp_path: Path):
    run(tmp_path)
    with pytest.raises(CheckpointError, match=r"00000007.model\.safetensors"):
        train(nn.Linear(3, 3), _never, CONFIG, tmp_path, {})


def test_reduced_precision_can_be_turned_off():
    x = torch.ones(2, 2)
    for bf16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        with reduced_precision(replace(CONFIG, bf16=bf16), torch.device("cpu")):
            assert (x @ x).dtype == dtype
