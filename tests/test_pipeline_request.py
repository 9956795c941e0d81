"""What a user may ask, and the sentences for what makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import BadInput
from backend.job.request import Request

GOOD = {"prompt": "a red mushroom"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": ""},
        {"prompt": "  \n\t "},
        {"prompt": "mushroom " * 500},
        {"prompt": 5},
        {"prompt": None},
        {"image": ""},
        {"image": "a\0b"},
        {"prompt": "a", "cameras": "b.json"},
        {"image": "a", "gaussians": "b.ply"},
        {**GOOD, "seed": -1},
        {**GOOD, "seed": 2**63},
        {**GOOD, "seed": 1.5},
        {**GOOD, "seed": True},
        {**GOOD, "faces": 0},
        {**GOOD, "faces": 10**9},
        {**GOOD, "faces": "many"},
        {**GOOD, "texture_size": 1},
        {**GOOD, "texture_size": 100_000},
        {**GOOD, "steps": 0},
        {**GOOD, "steps": 10_000},
        {**GOOD, "guidance": -1},
        {**GOOD, "guidance": float("nan")},
        {**GOOD, "guidance": float("inf")},
        {**GOOD, "guidance": "strong"},
        {**GOOD, "recipe": "soup"},
        {**GOOD, "recipe": ["starter"]},
        {**GOOD, "colour": "red"},
        [],
        "a red mushroom",
        None,
    ],
)
def test_senseless_requests_get_a_sentence(fields: object) -> None:
    with pytest.raises(BadInput) as caught:
        Request.from_json(fields)
    assert len(caught.value.message) < 300
    assert caught.value.message.endswith(".")


def test_a_request_survives_json() -> None:
    request = Request.from_json({**GOOD, "seed": 7, "steps": 10, "guidance": 2, "faces": 500})
    assert Request.from_json(request.to_json()) == request


def test_nulls_are_defaults() -> None:
    assert Request.from_json({**GOOD, "image": None, "faces": None}) == Request(prompt="a red mushroom")


def test_a_prompt_may_describe_an_image(tmp_path: Path) -> None:
    request = Request.from_json({"prompt": "a mug", "image": str(tmp_path / "a.png")})
    assert request.source == "image"


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Request(image="a.png").image == str(tmp_path / "a.png")
    assert Request(cameras="scene").cameras == str(tmp_path / "scene" / "transforms.json")
    (tmp_path / "notes.txt").touch()
    assert Request(cameras="notes.txt").cameras == str(tmp_path / "notes.txt"), "a file is no folder"
    for request in (Request(image="a.png"), Request(cameras="t.json"), Request(gaussians="a" * 5000)):
        with pytest.raises(BadInput):
            request.check_source()


def test_going_on_keeps_what_made_the_earlier_results() -> None:
    earlier = {"prompt": "a red mushroom", "seed": 7, "recipe": "starter", "faces": 500}
    mesh = Request.resumed({"prompt": "a blue car", "seed": 9, "faces": 900}, earlier, "mesh")
    assert (mesh.prompt, mesh.seed, mesh.faces) == ("a red mushroom", 7, 900)
    views = Request.resumed({"seed": 9}, earlier, "views")
    assert (views.prompt, views.seed, views.faces) == ("a red mushroom", 9, 500)
    picture = Request.resumed({"image": "a.png"}, earlier, "views")
    assert (picture.prompt, picture.source) == (None, "image")
    fresh = Request.resumed(GOOD, earlier, None)
    assert fresh.seed == 0


def test_a_damaged_earlier_request_gets_a_sentence() -> None:
    with pytest.raises(BadInput):
        Request.resumed({}, {"prompt": 5}, "mesh")
    with pytest.raises(BadInput):
        Request.resumed({}, None, "mesh")
