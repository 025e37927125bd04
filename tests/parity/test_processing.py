"""Marigold's rules for pictures of any shape against diffusers' own image processor."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from service.api.resample import image_to_padded, resize_plainly
from service.core.sizes import LongestEdge

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # diffusers' imports warn of its own dependencies
    from diffusers.pipelines.marigold.marigold_image_processing import MarigoldImageProcessor


@pytest.mark.parametrize("size", [(90, 130), (301, 77), (50, 61), (64, 64)])
@pytest.mark.parametrize("edge", [64, 100])
def test_pictures_are_resized_and_padded_alike(size, edge):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    processor = MarigoldImageProcessor(vae_scale_factor=8)
    theirs, padding, original = processor.preprocess(picture, edge, "bilinear")
    fit = LongestEdge(edge, 8).fit(size)
    ours = image_to_padded(picture, fit)
    assert original == size
    assert tuple(np.subtract(fit.padded, padding)) == fit.content
    np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(37, 53), (100, 30), (64, 64)])
@pytest.mark.parametrize("wanted", [(20, 31), (90, 80), (37, 20), (64, 64)])
def test_maps_are_resized_alike(size, wanted):
    maps = np.random.default_rng(1).standard_normal((2, *size)).astype(np.float32)
    theirs = MarigoldImageProcessor.resize_antialias(
        torch.from_numpy(maps)[:, None], wanted, "bilinear", is_aa=False
    )
    ours = resize_plainly(maps, *wanted)
    np.testing.assert_allclose(ours, theirs[:, 0].numpy(), rtol=0, atol=1e-4)
