"""What makes two questions one: beside the tests over HTTP, what these cannot see."""

from dataclasses import dataclass, replace

import numpy as np

from service.api.answers import Scene
from service.api.fingerprint import fingerprint
from service.api.images import ImageLimits, Upload
from service.backends.repository import load_repository
from tests.support.pictures import disc, encode, gradient
from tests.support.requests import make_request

LIMITS = ImageLimits(10**6, 16, 4096)


@dataclass(frozen=True)
class ElsewhereUpload(Upload):
    """An upload that another decoder reads."""

    def rgb(self) -> np.ndarray:
        return np.zeros((80, 96, 3), np.uint8)

    def mask(self) -> np.ndarray:
        return np.zeros((80, 96), bool)


def scene_of(kind: type[Upload]) -> Scene:
    files = {"image": encode(gradient()), "mask": encode(disc())}
    uploads = tuple(kind(field, data, LIMITS) for field, data in files.items())
    return Scene(uploads, 96, 80, "median", uncertainty=False, all_members=False)


def test_pixels_are_decoded_by_the_uploads_own_means(tiny_repository):
    """An upload that is decoded in isolation must not be decoded here for its hash."""
    (model,) = load_repository(tiny_repository).values()
    request = make_request(model, "amodal")
    elsewhere = fingerprint(request, scene_of(ElsewhereUpload), "mask", "")
    assert elsewhere != fingerprint(request, scene_of(Upload), "mask", "")
    assert elsewhere == fingerprint(request, scene_of(ElsewhereUpload), "mask", "")


def test_another_models_answer_is_another(tiny_repository):
    (model,) = load_repository(tiny_repository).values()
    request, scene = make_request(model), scene_of(Upload)
    files = dict(model.artifact.files)
    files[min(files)] = "0" * 64
    retrained = replace(request, artifact=replace(model.artifact, files=files))
    plain = fingerprint(request, scene, "color", "")
    assert plain != fingerprint(retrained, scene, "color", "")
    assert plain != fingerprint(replace(request, model="tiny:2"), scene, "color", "")
    assert plain != fingerprint(request, scene, "color", "key:bob")
    brighter = request.image.copy()
    brighter[0, 0, 0] += np.float32(1e-6)
    assert plain != fingerprint(replace(request, image=brighter), scene, "color", "")
    assert plain == fingerprint(replace(request, image=request.image.copy()), scene, "color", "")
