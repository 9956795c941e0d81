"""What the server does in its queue beside jobs: views edited, pictures shown, weights fetched and imported."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import stand_ins
import torch
from safetensors.torch import save_file
from server_client import REAL, ROOT, TINY, Client
from weights_cases import LGM, SMALL

from backend.datatypes import Step
from backend.errors import Cancelled
from backend.formats.images import write_png
from backend.frontend.tasks import Tasks
from backend.frontend.wire import METHODS, NOTIFICATIONS, Channel, mismatch
from backend.nets.lgm import Lgm

PROMPT = {"prompt": "a red mushroom", "texture_size": 64, "faces": 100}


@pytest.fixture(scope="module")
def tiny() -> Iterator[Client]:
    client = Client(TINY)
    yield client
    client.close()


def code(answer: dict) -> str:
    return answer["error"]["data"]["code"]


def test_views_first_then_edited_then_the_mesh(tiny: Client, tmp_path: Path) -> None:
    folder = str(tmp_path / "job")
    made = tiny.call("generate", job="v", folder=folder, request=PROMPT, to_stage="views")["result"]
    assert set(made["files"]) == {"views", "transforms", "report"}
    write_png(tmp_path / "mine.png", stand_ins.ball_views(64).rgba[0])
    edited = tiny.call("views.edit", job="e", folder=folder, replace={"1": str(tmp_path / "mine.png")})["result"]
    assert mismatch(edited, METHODS["views.edit"].result) == ""
    assert (len(edited["views"]), edited["least"], edited["earlier"]) == (4, 4, 1)
    assert code(tiny.call("views.edit", folder=folder, drop=[0])) == "bad_input", "the starter needs all four"
    assert tiny.call("views.edit", folder=folder, undo=True)["result"]["earlier"] == 0
    tiny.heard.clear()
    anew = tiny.call("views.reroll", job="r", folder=folder, anew=[2], seed=3)["result"]
    assert mismatch(anew, METHODS["views.reroll"].result) == ""
    assert anew["earlier"] == 1
    assert {entry["stage"] for entry in tiny.notified("progress")} == {"views"}
    for bad in ([], ["2"], [True], [9], [0, 1, 2, 3]):
        assert code(tiny.call("views.reroll", folder=folder, anew=bad, seed=3)) == "bad_input"
    done = tiny.call("generate", job="m", folder=folder, request={}, from_stage="gaussians")["result"]
    assert Path(done["files"]["mesh_npz"]).is_file()


def test_words_become_a_picture_which_is_shown_and_gone_on_from(tiny: Client, tmp_path: Path) -> None:
    folder, request = str(tmp_path / "job"), {**PROMPT, "recipe": "seeing"}
    told = {each["name"]: each for each in tiny.call("initialize")["result"]["recipes"]}
    assert [told[name]["picture_first"] for name in ("starter", "seeing", "grm")] == [False, True, True]
    tiny.heard.clear()
    made = tiny.call("generate", job="p", folder=folder, request=request, to_stage="picture")["result"]
    assert mismatch(made, METHODS["generate"].result) == ""
    assert made["files"]["picture"] == str(tmp_path / "job" / "imagined.png")
    assert {entry["stage"] for entry in tiny.notified("progress")} == {"picture"}
    shown = tiny.notified("preview")
    assert {(entry["kind"], Path(entry["path"]).name) for entry in shown} == {("picture", "imagined_preview.png")}
    again = {**request, "seed": 9}
    tiny.call("generate", job="q", folder=folder, request=again, from_stage="picture", to_stage="picture")
    undone = tiny.call("views.edit", job="u", folder=folder, undo=True)["result"]
    assert mismatch(undone, METHODS["views.edit"].result) == ""
    assert (undone["views"], undone["earlier"]) == ([], 0)
    done = tiny.call("generate", job="m", folder=folder, request=request, from_stage="views")["result"]
    assert Path(done["files"]["mesh_npz"]).is_file()
    assert "picture" in done["files"]


@pytest.mark.parametrize(
    "params",
    [
        {"folder": " ", "drop": [0]},
        {"folder": "nowhere", "drop": [0]},
        {"folder": "nowhere", "drop": ["0"]},
        {"folder": "nowhere", "drop": [True]},
        {"folder": "nowhere", "replace": {"x": "a.png"}},
        {"folder": "nowhere", "replace": {"1": 5}},
        {"folder": "nowhere", "undo": True, "drop": [1]},
        {"folder": "nowhere"},
    ],
)
def test_bad_edits_are_sentences(tiny: Client, params: dict) -> None:
    answer = tiny.call("views.edit", **params)
    assert code(answer) == "bad_input"
    assert answer["error"]["message"].endswith(".")


def test_a_name_that_may_be_left_out_may_be_null(tiny: Client) -> None:
    answer = tiny.call("views.edit", job=None, folder="nowhere", drop=[1])
    assert "holds no views" in answer["error"]["message"]


def test_a_view_that_is_being_made_anew_can_be_cancelled(tiny: Client, tmp_path: Path) -> None:
    folder = str(tmp_path / "job")
    request = {**PROMPT, "prompt": "a red mushroom slow", "steps": 40}
    tiny.call("generate", job="v", folder=folder, request={**request, "steps": 1}, to_stage="views")
    (tmp_path / "job" / "request.json").write_text(json.dumps(request))
    tiny.heard.clear()
    asked = tiny.send("views.reroll", job="r", folder=folder, anew=[2], seed=3)
    tiny.wait_for(lambda message: message.get("params", {}).get("job") == "r")
    tiny.call("cancel", job="r")
    assert code(tiny.answer(asked, 10)) == "cancelled"
    assert not (tmp_path / "job" / "earlier").exists()


def test_a_picture_is_shown_while_a_job_runs(tiny: Client, tmp_path: Path) -> None:
    write_png(tmp_path / "ball.png", stand_ins.ball_views(64).rgba[0])
    slow = {**PROMPT, "prompt": "a red mushroom slow", "steps": 1000}
    job = tiny.send("generate", job="slow", folder=str(tmp_path / "slow"), request=slow)
    tiny.wait_for(lambda message: message.get("params", {}).get("job") == "slow")
    out = tmp_path / "out.png"
    shown = tiny.call("picture.prepare", image=str(tmp_path / "ball.png"), out=str(out))["result"]
    assert mismatch(shown, METHODS["picture.prepare"].result) == ""
    assert out.stat().st_size > 0
    for bad in (tmp_path / "none.png", tmp_path):
        assert code(tiny.call("picture.prepare", image=str(bad), out=str(out))) == "bad_input"
    unwritable = str(tmp_path / "no" / "folder" / "x.png")
    assert code(tiny.call("picture.prepare", image=str(tmp_path / "ball.png"), out=unwritable)) == "bad_input"
    tiny.call("cancel", job="slow")
    assert code(tiny.answer(job)) == "cancelled"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder whose files a stand-in for the hub serves to a real server."""
    for name in ("HF_HUB_OFFLINE", "SPLATSMITH_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    served = tmp_path / "hub"
    served.mkdir()
    torch.manual_seed(0)
    save_file({key: value.half() for key, value in Lgm(SMALL).state_dict().items()}, served / LGM)
    monkeypatch.setenv("FAKE_HUB", str(served))
    monkeypatch.setenv("FAKE_HUB_SECONDS", "0.4")
    monkeypatch.setenv("SPLATSMITH_HOME", str(tmp_path / "home"))
    return served


@pytest.fixture
def server(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    search = os.pathsep.join([str(ROOT / "tests" / "fake_hub"), str(ROOT)])
    client = Client(["env", f"PYTHONPATH={search}", *REAL])
    yield client
    client.close()


def present(server: Client) -> bool:
    packs = server.call("weights.status")["result"]["published"]
    return next(pack for pack in packs if pack["name"] == "lgm-big")["present"]


@pytest.mark.skipif(os.name != "posix", reason="the server is started through the command env")
def test_weights_come_after_a_yes_with_progress_and_go_on_after_a_cancel(
    server: Client, hub: Path, tmp_path: Path
) -> None:
    for refused in ({}, {"accept": False}):
        answer = server.call("weights.download", name="lgm-big", **refused)
        assert code(answer) == "bad_input"
        assert "MIT" in answer["error"]["message"]
    assert not (tmp_path / "sent").exists(), "nothing may be fetched before the licence is accepted"
    download = server.send("weights.download", job="d", name="lgm-big", accept=True)
    halves = tmp_path / "home" / "weights" / "lgm-big" / ".downloading"
    end = time.monotonic() + 60
    while not any(half.stat().st_size for half in halves.glob("*.part")):
        assert time.monotonic() < end
        time.sleep(0.01)
    server.call("cancel", job="d")
    assert code(server.answer(download)) == "cancelled"
    time.sleep(0.2)
    sent = (tmp_path / "sent").read_text().split()
    time.sleep(0.3)
    assert (tmp_path / "sent").read_text().split() == sent, "it goes on after the cancel"
    assert not present(server)
    assert server.call("weights.download", job="e", name="lgm-big", accept=True)["result"] == {"name": "lgm-big"}
    assert present(server)
    sizes = [int(size) for size in (tmp_path / "sent").read_text().split()]
    assert sizes == sorted(sizes), "the second try began where the first was stopped"
    progress = [entry for entry in server.notified("progress") if entry["stage"] == "weights"]
    assert progress
    assert [mismatch(entry, NOTIFICATIONS["progress"]) for entry in progress] == [""] * len(progress)
    assert all("lgm-big" in entry["message"] for entry in progress)


@pytest.mark.parametrize(("method", "goes_on"), [("weights.download", True), ("weights.import", False)])
def test_only_a_download_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, goes_on: bool
) -> None:
    monkeypatch.setenv("SPLATSMITH_HOME", str(tmp_path))

    def fetch(*given: object) -> Iterator[Step]:
        yield Step(1, 2, "")

    monkeypatch.setattr("backend.downloads.fetching.fetch", fetch)
    params = {"name": "geolrm", "accept": True, **({} if goes_on else {"source": "stick"})}
    with pytest.raises(Cancelled) as caught:
        Tasks(Channel(io.BytesIO(), io.BytesIO()), "cpu").perform(method, "job", params, lambda: True)
    assert ("where it was" in caught.value.fix) == goes_on


@pytest.mark.skipif(os.name != "posix", reason="the server is started through the command env")
def test_refusals_and_imports(server: Client, hub: Path, tmp_path: Path) -> None:
    shutil.move(hub / LGM, tmp_path / LGM)
    answer = server.call("weights.download", name="lgm-big", accept=True)
    assert code(answer) == "bad_input"
    assert "accept their licence" in answer["error"]["message"]
    assert "hf auth login" in answer["error"]["data"]["fix"]
    for source in (" ", str(hub), str(tmp_path / "nowhere")):
        assert code(server.call("weights.import", name="lgm-big", source=source, accept=True)) == "bad_input"
    assert code(server.call("weights.import", name="lgm-big", source=str(tmp_path))) == "bad_input"
    assert code(server.call("weights.import", name="gold", source=str(tmp_path), accept=True)) == "bad_input"
    imported = server.call("weights.import", name="lgm-big", source=str(tmp_path), accept=True)
    assert imported["result"] == {"name": "lgm-big"}
    assert present(server)
