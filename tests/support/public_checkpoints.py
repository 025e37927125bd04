"""Checkpoints with random weights, small, in exactly the layout of the public ones."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # diffusers' imports warn of its own dependencies
    from diffusers import (
        AutoencoderKL,
        AutoencoderTiny,
        DDIMScheduler,
        LCMScheduler,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

FACTOR = 2  # pixels of a latent cell: every autoencoder here has two levels
RESOLUTION = 32
CHANNELS = 4
TEXT_WIDTH = 32
WEIGHTS = "diffusion_pytorch_model.safetensors"

# Stable Diffusion 2's scheduler, as the first Marigold has it.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
TRAILING = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
INDEX: dict[str, Any] = {
    "_class_name": "MarigoldDepthPipeline",
    "_diffusers_version": "0.32.0",
    "default_denoising_steps": 4,
    "default_processing_resolution": RESOLUTION,
    "prediction_type": "depth",
    "scale_invariant": True,
    "shift_invariant": True,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
# What end-to-end fine-tunes have instead: None takes a field out.
STABLE_DIFFUSION_INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "prediction_type": None,
    "scale_invariant": None,
    "shift_invariant": None,
    "default_denoising_steps": None,
    "default_processing_resolution": None,
}
# What folders of `MarigoldNormalsPipeline` have instead.
NORMALS_INDEX: dict[str, Any] = {
    "_class_name": "MarigoldNormalsPipeline",
    "prediction_type": "normals",
    "scale_invariant": None,
    "shift_invariant": None,
    "use_full_z_range": True,
}


def build_marigold(folder: Path, *, lcm: bool = False, **scheduler: Any) -> Path:
    """A folder of `MarigoldDepthPipeline`; `scheduler` changes fields of its scheduler's file."""
    kind = LCMScheduler if lcm else DDIMScheduler
    index = {**INDEX, "scheduler": ["diffusers", kind.__name__]}
    _build(folder, build_unet(2 * CHANNELS), index, kind, scheduler)
    return folder


def build_lotus(folder: Path, *, generative: bool) -> Path:
    """A folder of Lotus G or D, whose own pipelines no library has."""
    unet = build_unet(
        2 * CHANNELS if generative else CHANNELS,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=4,
    )
    kept = ("_diffusers_version", "text_encoder", "tokenizer", "unet", "vae")
    index = {
        "_class_name": "LotusGPipeline" if generative else "LotusDPipeline",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        **{name: INDEX[name] for name in kept},
    }
    _build(folder, unet, index, DDIMScheduler, {})
    return folder


def build_unet(in_channels: int, **fields: Any) -> Any:
    """Stable Diffusion 2's UNet with two levels."""
    torch.manual_seed(in_channels)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=CHANNELS,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=8,
        use_linear_projection=True,
        **fields,
    )


def build_autoencoder(folder: Path, *, channels: int = CHANNELS, seed: int = 0) -> Path:
    """A folder of `AutoencoderKL` with two levels."""
    torch.manual_seed(seed)
    vae: Any = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=RESOLUTION,
    )
    vae.save_pretrained(folder)
    return folder


def build_tiny_autoencoder(folder: Path) -> Path:
    """A folder of `AutoencoderTiny` (TAESD) with two levels."""
    torch.manual_seed(2)
    vae: Any = AutoencoderTiny(
        encoder_block_out_channels=(16, 16),
        decoder_block_out_channels=(16, 16),
        num_encoder_blocks=(1, 2),
        num_decoder_blocks=(2, 1),
        latent_channels=CHANNELS,
    )
    with torch.no_grad():  # to grey, or else all is clipped to black
        vae.decoder.layers[-1].bias.add_(0.5)
    vae.save_pretrained(folder)
    (folder / "LICENSE").write_text("MIT License\n\nCopyright (c) nobody\n")
    return folder


def edit_json(path: Path, **fields: Any) -> None:
    """Change fields of a file; None takes one out."""
    values = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def _build(
    folder: Path,
    unet: Any,
    index: dict[str, Any],
    scheduler: type[Any],
    changed: dict[str, Any],
) -> None:
    folder.mkdir(parents=True)
    unet.save_pretrained(folder / "unet")
    build_autoencoder(folder / "vae")
    scheduler(**{**SCHEDULER, **changed}).save_pretrained(folder / "scheduler")
    _text_encoder(folder / "text_encoder")
    _tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n\n# Random\n")


def _text_encoder(folder: Path) -> None:
    torch.manual_seed(3)
    config = CLIPTextConfig(
        vocab_size=8,
        hidden_size=TEXT_WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    CLIPTextModel(config).save_pretrained(folder)
    path = folder / "model.safetensors"
    # Public files have the prefix and the positions of the library that wrote them.
    weights = {
        key if key.startswith("text_model.") else f"text_model.{key}": value.clone()
        for key, value in load_file(path).items()
    }
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, path, metadata={"format": "pt"})


def _tokenizer(folder: Path) -> None:
    folder.mkdir()
    tokens = ["<|startoftext|>", "<|endoftext|>", "a", "b", "a</w>", "b</w>", "ab</w>", "!"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "!",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    described = {**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
