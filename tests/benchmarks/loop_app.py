"""A plain server: FastAPI, and one request at a time in a worker thread.

`python -m tests.benchmarks.loop_app --port 8001`; `tests.benchmarks.engine` starts it.
"""

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Form, Response, UploadFile

from tests.benchmarks.request_level import RequestLevel


def create_app(model: RequestLevel) -> FastAPI:
    """`POST /depth` with the service's form fields, and `GET /health`."""
    app = FastAPI()
    thread = ThreadPoolExecutor(1)

    def answer(data: bytes, steps: int, members: int, seed: int) -> bytes:
        asked = model.read(data, steps, members, seed)
        (fields,) = model.predict([asked])
        return model.draw(asked, fields)

    @app.post("/depth")
    async def depth(
        image: UploadFile,
        steps: Annotated[int, Form()],
        ensemble: Annotated[int, Form()],
        seed: Annotated[int, Form()],
    ) -> Response:
        data = await image.read()
        loop = asyncio.get_running_loop()
        content = await loop.run_in_executor(thread, answer, data, steps, ensemble, seed)
        return Response(content, media_type="image/png")

    @app.get("/health")
    async def health() -> str:
        return "ok"

    return app


def add_options(parser: argparse.ArgumentParser) -> None:
    """What servers of whole requests are told."""
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--step-rows", type=int, default=4)
    parser.add_argument("--image-rows", type=int, default=4)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.loop_app", description=__doc__)
    add_options(parser)
    options = parser.parse_args()
    model = RequestLevel(options.repository, options.step_rows, options.image_rows)
    uvicorn.run(create_app(model), port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
