"""The whole network of one generalist: autoencoder, an encoder per task, one shared denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

from torch import Tensor, nn

from service.core.artifact import Component, ScheduleSpec
from service.core.record import ArtifactError, require
from service.core.tasks import TASKS, TaskName
from training.diffusion import PAPER_SCHEDULE, SCHEDULE
from training.models.dit import DiT, DiTConfig
from training.models.encoders import Encoded, LatentEncoder, SceneEncoder, SceneEncoderConfig
from training.models.latent_diffusion_vae import LatentDiffusionVae, LatentDiffusionVaeConfig
from training.models.moe import ExpertsConfig
from training.models.motion import MotionEncoder, MotionEncoderConfig
from training.models.presets import PRESETS
from training.models.transformer import Axis
from training.models.vae import FACTOR, Autoencoder, PictureCode, VaeConfig
from training.targets import COMPONENTS, TABLES, FlowCode, Targets, TargetTable

Form = Literal["concatenated", "decoupled"]


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the shape of a generalist.

    `concatenated` is the paper's form: the condition is latents, and one network does everything at
    every step. `decoupled` encodes the pictures once with a network per task and keeps the denoiser
    small. A network that was pre-trained on images keeps their `pretrained_labels` first in its
    table; the tasks' follow, and the label of no class stays the last.
    """

    form: Form = "decoupled"
    image_size: int = 128  # px, of predictions and of single-picture inputs
    flow_size: int = 192  # px, of the two frames: small motions need the resolution
    condition_channels: int = 16
    scene_widths: tuple[int, int, int] = (48, 96, 224)
    scene_depth: int = 6
    denoiser_width: int = 192
    denoiser_depth: int = 4
    denoiser_heads: int = 4
    patch: int = 2
    vae: VaeConfig | LatentDiffusionVaeConfig = field(default_factory=VaeConfig)
    targets: Targets = "percept"  # how answers are encoded, and in which components
    schedule: ScheduleSpec = SCHEDULE  # of the noise, and what the denoiser says about it
    tasks: tuple[TaskName, ...] = ("depth", "flow", "amodal")
    experts: ExpertsConfig | None = None  # in the denoiser's blocks, instead of the MLP
    first_axis: Axis = "rows"  # of the denoiser's positions
    pretrained_labels: int = 0  # classes of the images a pre-trained denoiser has seen

    def __post_init__(self) -> None:
        distinct = len(self.tasks) > 0 and len(set(self.tasks)) == len(self.tasks)
        require(distinct, "tasks", "must be distinct and at least one")
        taught = set(self.tasks) <= COMPONENTS.keys()
        require(taught, "tasks", f"must be out of {', '.join(COMPONENTS)}, which have targets")
        require(self.pretrained_labels >= 0, "pretrained_labels", "must not be negative")
        # The motion encoder estimates one picture of u and v.
        together = self.form == "concatenated" or self.targets == "percept"
        require(together, "targets", f"must be percept in the {self.form} form")
        self._check_sizes()
        if self.form == "concatenated":
            self._check_latents()
        else:
            # The first channels of a learned condition estimate the answer's latents.
            least = self.vae.latent_channels * max(
                len(self.table.components[task]) for task in self.tasks
            )
            fits = self.condition_channels >= least
            reason = f"must be at least {least}, got {self.condition_channels}"
            require(fits, "condition_channels", reason)

    def _check_sizes(self) -> None:
        for name, cell in (("image_size", FACTOR * max(1, self.patch)), ("flow_size", FACTOR)):
            size = getattr(self, name)
            whole = size >= cell and size % cell == 0
            require(whole, name, f"must be a multiple of {cell} px, got {size}")
        grouped = all(width >= 8 and width % 8 == 0 for width in self.scene_widths)
        require(grouped, "scene_widths", "must be multiples of 8, for groups and heads")
        try:
            self.denoiser()
        except ArtifactError as error:
            own = {"width", "depth", "heads"}
            name = f"denoiser_{error.path}" if error.path in own else error.path
            raise ArtifactError(name, error.reason) from None

    def _check_latents(self) -> None:
        """The condition is latents: the picture's, and the prompt's where a task has one."""
        channels, condition = self.vae.latent_channels, self.condition_channels
        fits = condition in (channels, 2 * channels)
        reason = f"must be {channels} or {2 * channels}, one latent or two, got {condition}"
        require(fits, "condition_channels", reason)
        two_pictures = [task for task in self.tasks if len(TASKS[task].images) > 1]
        room = condition > channels or not two_pictures
        reason = f"{condition} has no room for the second picture of {', '.join(two_pictures)}"
        require(room, "condition_channels", reason)

    def components(self, task: TaskName) -> tuple[Component, ...]:
        """A task's components under the labels that this network knows them by.

        Raises ValueError for a task that the network does not do.
        """
        if task not in self.tasks:
            raise ValueError(f"this model does {', '.join(self.tasks)}, not {task}")
        labels = self._labels()
        return tuple(
            replace(component, label=self.pretrained_labels + labels.index(component.label))
            for component in self.table.components[task]
        )

    @property
    def table(self) -> TargetTable:
        """How this network's answers are encoded."""
        return TABLES[self.targets]

    def _labels(self) -> list[int]:
        """The table's labels of all components that the network has, in order."""
        return sorted(c.label for task in self.tasks for c in self.table.components[task])

    def denoiser(self) -> DiTConfig:
        """Shape of the denoiser."""
        channels, pretrained = self.vae.latent_channels, self.pretrained_labels
        num_components = len(self._labels())
        return DiTConfig(
            in_channels=channels + self.condition_channels,
            out_channels=channels,
            num_labels=pretrained + num_components + 1 if pretrained else num_components,
            width=self.denoiser_width,
            depth=self.denoiser_depth,
            heads=self.denoiser_heads,
            patch=self.patch,
            num_routes=num_components if pretrained else None,
            first_task_label=pretrained,
            first_axis=self.first_axis,
            experts=self.experts,
        )

    def input_size(self, task: str) -> int:
        """Side in px of the pictures that a task's encoder takes."""
        own_sizes = {"flow": self.flow_size} if self.form == "decoupled" else {}
        return own_sizes.get(task, self.image_size)

    @property
    def latent_size(self) -> int:
        """Side of the latent grid."""
        return self.image_size // FACTOR


def paper_form(
    preset: str, image_size: int, tasks: tuple[TaskName, ...] = ("depth",)
) -> ModelConfig:
    """The paper's network around a published one, for pictures of `image_size` px.

    Depth alone needs no prompt (section 4 of the paper): the condition is one latent. The
    autoencoder is ours; `replace` or `--set` chooses another of four channels.
    """
    denoiser = PRESETS[preset]
    channels = VaeConfig().latent_channels
    pictures = max(len(TASKS[task].images) for task in tasks)
    return ModelConfig(
        form="concatenated",
        image_size=image_size,
        condition_channels=pictures * channels,
        denoiser_width=denoiser.width,
        denoiser_depth=denoiser.depth,
        denoiser_heads=denoiser.heads,
        patch=denoiser.patch,
        targets="paper",
        schedule=PAPER_SCHEDULE,
        tasks=tasks,
        experts=denoiser.experts,
        first_axis=denoiser.first_axis,
        pretrained_labels=denoiser.num_labels - 1,
    )


_ALL_TASKS: tuple[TaskName, ...] = tuple(COMPONENTS)
_TINY = ModelConfig(
    image_size=64,
    flow_size=64,
    scene_widths=(16, 32, 64),
    scene_depth=1,
    denoiser_width=64,
    denoiser_depth=1,
    vae=VaeConfig(encoder_width=32, encoder_blocks=1, decoder_widths=(32, 16, 16, 8)),
)
_TINY_CONCATENATED = replace(_TINY, form="concatenated", condition_channels=8)

MODELS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "tiny": _TINY,
        "tiny-concatenated": _TINY_CONCATENATED,
        "tiny-moe": replace(_TINY_CONCATENATED, experts=ExpertsConfig(num=4, active=2)),
        "decoupled": ModelConfig(),
        "concatenated": ModelConfig(
            form="concatenated",
            condition_channels=8,
            denoiser_width=256,
            denoiser_depth=8,
        ),
        **{f"a{size}": paper_form(f"a{size}", 256) for size in range(1, 7)},
        **{f"a{size}-512": paper_form(f"a{size}", 512) for size in range(1, 7)},
        "generalist-XL": paper_form("DiT-XL/2", 512, _ALL_TASKS),
        "generalist-XL-8E2A": paper_form("MoE-XL/2-8E2A-upcycled", 512, _ALL_TASKS),
    }
)


class PerceptionModel(nn.Module):
    """`encode` once per request, `denoiser` per step and member, `vae.decode` once per member."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vae = build_autoencoder(config.vae)
        self.encoders = nn.ModuleDict(
            {task: _ENCODERS[config.form][task](config, self.vae) for task in config.tasks}
        )
        self.denoiser = DiT(config.denoiser())
        self.vae.requires_grad_(False)

    def encode(self, task: str, image: Tensor, prompt: Tensor | None) -> Encoded:
        """Condition of pictures (B, 3, S, S) in [-1, 1] for a task."""
        return self.encoders[task](image, prompt)

    def components(self, task: TaskName) -> tuple[Component, ...]:
        """A task's components under this network's labels; raises ValueError for another task."""
        return self.config.components(task)


def build_autoencoder(
    config: VaeConfig | LatentDiffusionVaeConfig,
) -> Autoencoder | LatentDiffusionVae:
    """The autoencoder that a configuration describes."""
    if isinstance(config, VaeConfig):
        return Autoencoder(config)
    return LatentDiffusionVae(config)


def _latents(config: ModelConfig, vae: PictureCode) -> nn.Module:
    return LatentEncoder(vae, prompted=config.condition_channels > config.vae.latent_channels)


def _scene(config: ModelConfig, vae: PictureCode, in_channels: int) -> nn.Module:
    del vae  # this encoder learns features of its own
    channels, widths, depth = config.condition_channels, config.scene_widths, config.scene_depth
    return SceneEncoder(SceneEncoderConfig(in_channels, channels, widths, depth))


def _motion(config: ModelConfig, vae: PictureCode) -> nn.Module:
    motion = MotionEncoderConfig(
        config.condition_channels, config.vae.latent_channels, config.latent_size
    )
    return MotionEncoder(motion, vae, FlowCode())


_ENCODERS: Mapping[Form, Mapping[str, Callable[[ModelConfig, PictureCode], nn.Module]]] = (
    MappingProxyType(
        {
            "concatenated": dict.fromkeys(COMPONENTS, _latents),
            "decoupled": {
                "depth": partial(_scene, in_channels=3),
                "flow": _motion,
                "amodal": partial(_scene, in_channels=4),  # a picture and a mask
            },
        }
    )
)
