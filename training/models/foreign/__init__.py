"""Other projects' checkpoints of diffusion transformers, read as ours.

| kind | what it is |
|---|---|
| `dit` | a `.pt` of facebookresearch/DiT: DiT-XL-2-256x256, -512x512, or what its training saves |
| `dit-diffusers` | a folder of diffusers' `DiTTransformer2DModel` |
| `dit-moe` | a `.pt` of feizc/DiT-MoE, with plain or with flash attention |
| `scaling-perception` | the released generalist of the perception paper (arXiv 2411.08034) |

Only tensors are ever loaded. Every name and shape must be what the layout has; what a file does not
say, and what was done to it, is in the notes.
"""

from training.models.foreign.diffusers_dit import read_diffusers
from training.models.foreign.foreign import Foreign, Kind
from training.models.foreign.readers import (
    is_foreign,
    read_dit,
    read_dit_moe,
    read_foreign,
    read_generalist,
)

__all__ = [
    "Foreign",
    "Kind",
    "is_foreign",
    "read_diffusers",
    "read_dit",
    "read_dit_moe",
    "read_foreign",
    "read_generalist",
]
