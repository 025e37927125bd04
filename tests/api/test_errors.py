"""Every wrong request is a 4xx problem document that names the field and the limit."""

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.api.problems import Problem
from tests.support.pictures import disc, encode, gradient, task_files

PICTURE = encode(gradient())
OTHER_SIZE = encode(gradient(97, 80))


def problem(answer: httpx.Response) -> Problem:
    assert answer.headers["content-type"] == "application/problem+json"
    parsed = Problem.model_validate_json(answer.content)
    assert parsed.status == answer.status_code
    assert parsed.title
    assert parsed.detail
    return parsed


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("steps", "0", "1..200"),
        ("steps", "201", "1..200"),
        ("steps", "two", "1..200"),
        ("steps", "1.5", "1..200"),
        ("steps", "", "1..200"),
        ("steps", "9" * 4000, "1..200"),
        ("ensemble", "0", "1..20 or auto"),
        ("ensemble", "21", "1..20 or auto"),
        ("ensemble", "AUTO", "1..20 or auto"),
        ("budget_evals", "8001", "1..8000"),
        ("budget_ms", "inf", "above 0, at most 600000"),
        ("budget_ms", "0.001", "at least"),
        ("tolerance", "0.5", "ensemble=auto"),
        ("quality", "good", "draft, standard, best"),
        ("seed", "-1", f"0..{2**64 - 1}"),
        ("seed", str(2**64), f"0..{2**64 - 1}"),
        ("uncertainty", "perhaps", "true or false"),
        ("all_members", "3", "true or false"),
        ("all_members", "true", "output=npz"),
        ("reduction", "mode", "median, mean, aligned"),
        ("output", "flo", "color, png16, npz, json"),
        ("output", "", "color, png16, npz, json"),
        ("model", "huge", "tiny:1"),
        ("model", "tiny:2", "tiny:1"),
    ],
)
async def test_wrong_values(client, field, value, limit):
    answer = await client.post("/depth", files={"image": PICTURE}, data={field: value})
    assert answer.status_code == 422
    said = problem(answer)
    assert said.field == field
    assert said.limit == limit or (limit == "at least" and str(said.limit).startswith(limit))


@pytest.mark.parametrize("field", ["budget", "deadline_ms", "Steps", "mask", "é"])
async def test_unknown_fields_are_named(client, field):
    answer = await client.post("/depth", files={"image": PICTURE}, data={field: "1"})
    assert answer.status_code == 422
    said = problem(answer)
    assert said.field == field
    assert "steps" in str(said.limit)


async def test_aligned_is_for_depth(client):
    answer = await client.post("/flow", files=task_files("flow"), data={"reduction": "aligned"})
    assert problem(answer).field == "reduction"
    assert problem(answer).limit == "median, mean"


@pytest.mark.parametrize(
    ("task", "missing"),
    [
        ("depth", "image"),
        ("flow", "frame1"),
        ("flow", "frame2"),
        ("amodal", "image"),
        ("amodal", "mask"),
    ],
)
async def test_missing_files(client, task, missing):
    files = {name: ("f", data) for name, data in task_files(task).items() if name != missing}
    # a form with nothing in it is still a form
    parts = [*files.items(), ("seed", (None, "1"))]
    answer = await client.post(f"/{task}", files=parts)
    assert answer.status_code == 422
    assert problem(answer).field == missing


async def test_repeated_fields(client):
    twice = [("image", ("a", PICTURE)), ("image", ("b", PICTURE))]
    answer = await client.post("/depth", files=twice)
    assert answer.status_code == 422
    assert problem(answer).field == "image"
    texts = {"steps": ["1", "2"]}
    answer = await client.post("/depth", files={"image": PICTURE}, data=texts)
    assert problem(answer).field == "steps"


async def test_text_and_file_confused(client):
    answer = await client.post("/depth", files={"image": (None, PICTURE)})
    assert problem(answer).field == "image"
    answer = await client.post("/depth", files={"image": PICTURE, "steps": ("f", b"3")})
    assert problem(answer).field == "steps"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 422),
        (b"no picture at all", 415),
        (PICTURE[: len(PICTURE) // 2], 422),
        (encode(gradient(15, 80)), 422),
    ],
)
@pytest.mark.parametrize(
    ("task", "field"),
    [("depth", "image"), ("flow", "frame2"), ("amodal", "mask"), ("amodal", "image")],
)
async def test_bad_files(client, task, field, data, status):
    answer = await client.post(f"/{task}", files={**task_files(task), field: data})
    assert answer.status_code == status
    assert problem(answer).field == field


async def test_too_many_pixels(client):
    bomb = encode(np.zeros((8000, 8000), np.uint8))
    answer = await client.post("/depth", files={"image": bomb})
    assert answer.status_code == 413
    assert problem(answer).field == "image"
    assert "40000000 pixels" in str(problem(answer).limit)


async def test_too_many_bytes(client):
    answer = await client.post("/depth", files={"image": bytes(2_000_001)})
    assert answer.status_code == 413
    said = problem(answer)
    assert (said.field, said.limit) == ("image", "2000000 bytes")


async def test_long_text_field(client):
    answer = await client.post("/depth", files={"image": PICTURE}, data={"model": "x" * 5000})
    assert answer.status_code == 413
    assert problem(answer).field == "model"


async def test_sizes_must_agree(client):
    files = {"frame1": PICTURE, "frame2": OTHER_SIZE}
    answer = await client.post("/flow", files=files)
    assert answer.status_code == 422
    assert problem(answer).field == "frame2"
    assert "96 x 80" in str(problem(answer).limit)
    files = {"image": OTHER_SIZE, "mask": encode(disc())}
    assert problem(await client.post("/amodal", files=files)).field == "mask"


@pytest.mark.parametrize(("value", "word"), [(0, "nothing"), (255, "everything")])
async def test_masks_must_mark_a_part(client, value, word):
    mask = encode(np.full((80, 96), value, np.uint8))
    answer = await client.post("/amodal", files={"image": PICTURE, "mask": mask})
    assert answer.status_code == 422
    assert problem(answer).field == "mask"
    assert word in problem(answer).detail


async def test_too_many_member_maps(client):
    """16 megapixels x 20 members x 4 bytes do not fit the 256 MiB that one answer may hold."""
    files = {"image": encode(np.zeros((4000, 4000), np.uint8))}
    data = {"output": "npz", "all_members": "true", "ensemble": "20"}
    answer = await client.post("/depth", files=files, data=data)
    assert answer.status_code == 413
    assert problem(answer).field == "all_members"


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({}, b"", 415),
        ({"content-type": "application/json"}, b"{}", 415),
        ({"content-type": "image/png"}, PICTURE, 415),
        ({"content-type": "multipart/form-data"}, b"", 400),
        ({"content-type": "multipart/form-data; boundary="}, b"", 400),
        ({"content-type": "multipart/form-data; boundary=" + "x" * 300}, b"", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"nonsense", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x\r\n\r\nabc\r\n--x--", 400),
        (
            {"content-type": "multipart/form-data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n\r\nabc',
            400,
        ),
    ],
)
async def test_bodies_that_are_no_form(client, headers, content, status):
    answer = await client.post("/depth", headers=headers, content=content)
    assert answer.status_code == status
    assert problem(answer).limit == "multipart/form-data"


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=st.binary(max_size=300), boundary=st.text("abc'()+_,-./:=? ", min_size=1))
async def test_random_forms_are_never_our_fault(client, content, boundary):
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    body = f"--{boundary}\r\n".encode() + content
    answer = await client.post("/depth", headers=headers, content=body)
    assert 400 <= answer.status_code < 500
    problem(answer)


async def test_knobs_in_the_address_are_not_passed_over(client):
    answer = await client.post("/depth?output=png16", files={"image": PICTURE})
    assert answer.status_code == 422
    assert problem(answer).field == "output"
    assert "form" in str(problem(answer).limit)


async def test_no_such_page_and_no_such_method(client):
    assert problem(await client.get("/deep")).status == 404
    assert problem(await client.post("/depth/", files={"image": PICTURE})).status == 404
    answer = await client.get("/depth")
    assert problem(answer).status == 405
    assert answer.headers["allow"] == "POST"


async def test_our_own_faults_say_nothing(client, monkeypatch):
    def broken(*_):
        raise RuntimeError("the database password is hunter2")

    monkeypatch.setattr("service.api.finish.make_answer", broken)
    answer = await client.post("/depth", files={"image": PICTURE})
    assert problem(answer).status == 500
    assert "hunter2" not in answer.text
