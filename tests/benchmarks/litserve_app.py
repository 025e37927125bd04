"""The same model behind LitServe, with LitServe's own batching of requests.

`python -m tests.benchmarks.litserve_app --port 8002 --max-batch-size 4`; needs the extra
`benchmark`. `tests.benchmarks.engine` starts it.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import litserve
import numpy as np
from fastapi import Response
from starlette.datastructures import UploadFile

from tests.benchmarks.loop_app import add_options
from tests.benchmarks.request_level import Asked, RequestLevel

Fields = Mapping[str, np.ndarray]
Answer = tuple[Asked, Fields]


class DepthAPI(litserve.LitAPI):  # type: ignore[misc]  # the library need not be installed
    """Runs in LitServe's worker process; the model is loaded there."""

    def __init__(
        self,
        repository: Path,
        step_rows: int,
        image_rows: int,
        max_batch_size: int,
        batch_timeout_s: float,
    ) -> None:
        super().__init__(
            max_batch_size=max_batch_size, batch_timeout=batch_timeout_s, api_path="/depth"
        )
        self._options = (repository, step_rows, image_rows)
        self._batched = max_batch_size > 1

    def setup(self, device: str) -> None:
        """Load the networks."""
        self.model = RequestLevel(*self._options)

    def decode_request(self, request) -> Asked:
        """Read the form of one call.

        `request` is a FormData; LitServe would make an annotation the type of the endpoint's body.
        """
        image = request["image"]
        assert isinstance(image, UploadFile)
        steps, members, seed = (int(str(request[k])) for k in ("steps", "ensemble", "seed"))
        return self.model.read(image.file.read(), steps, members, seed)

    def batch(self, inputs: Sequence[Asked]) -> Sequence[Asked]:
        """Requests stay apart until `predict`."""
        return inputs

    def predict(self, x: Asked | Sequence[Asked]) -> Answer | list[Answer]:
        """One call's answer, or with batching those of several."""
        batch = [x] if isinstance(x, Asked) else x
        answers: list[Answer] = list(zip(batch, self.model.predict(batch), strict=True))
        return answers if self._batched else answers[0]

    def unbatch(self, output: Sequence[Answer]) -> Sequence[Answer]:
        """Answers come apart already."""
        return output

    def encode_response(self, output: Answer) -> Response:
        """Draw one answer."""
        return Response(self.model.draw(*output), media_type="image/png")


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.litserve_app", description=__doc__)
    add_options(parser)
    parser.add_argument("--max-batch-size", type=int, default=1)
    parser.add_argument("--batch-timeout-ms", type=float, default=5.0)
    options = parser.parse_args()
    api = DepthAPI(
        options.repository,
        options.step_rows,
        options.image_rows,
        options.max_batch_size,
        options.batch_timeout_ms / 1e3 if options.max_batch_size > 1 else 0.0,
    )
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=1, timeout=False
    )
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
