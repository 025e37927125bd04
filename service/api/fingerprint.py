"""What an answer is made of, as one hash: requests that are alike in it have the same answer."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from hashlib import sha256
from operator import methodcaller

import numpy as np

from service.api.answers import Scene
from service.api.images import Upload
from service.core.artifact import Artifact
from service.core.tasks import TaskName
from service.engine.request import PredictionRequest

# Pixels that an answer is drawn with at their full size, beside what the model sees of them. By
# name: uploads of another class decode in their own way.
_DRAWN_WITH: Mapping[TaskName, tuple[Callable[[Upload], np.ndarray], ...]] = {
    "depth": (),
    "flow": (),
    "amodal": (methodcaller("rgb"), methodcaller("mask")),
    "normals": (),
}


def fingerprint(request: PredictionRequest, scene: Scene, output: str, owner: str) -> str:
    """Return the SHA-256 of all that an answer of a given seed depends on.

    That is pixels rather than files: a picture stored anew without loss is the same one. `owner`
    keeps callers' answers apart, to whom a quick answer would tell what others have asked.
    """
    said = {
        "owner": owner,
        "model": request.model,
        "checksum": _checksum(request.artifact),
        "task": request.task.task,
        "plan": asdict(request.plan),
        "components": [component.name for component in request.components],
        "output": output,
        "reduction": scene.reduction,
        "uncertainty": scene.uncertainty,
        "all_members": scene.all_members,
        "size": [scene.width, scene.height],
        "fit": None if scene.fit is None else asdict(scene.fit),
    }
    digest = sha256(json.dumps(said, sort_keys=True).encode())
    pixels = [request.image, *([] if request.prompt is None else [request.prompt])]
    drawn = zip(scene.uploads, _DRAWN_WITH.get(request.task.task, ()), strict=False)
    pixels += [read(upload) for upload, read in drawn]
    for array in pixels:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _checksum(artifact: Artifact) -> str:
    """Return the SHA-256 over the files of a model."""
    lines = (f"{path} {digest}\n" for path, digest in sorted(artifact.files.items()))
    return sha256("".join(lines).encode()).hexdigest()
