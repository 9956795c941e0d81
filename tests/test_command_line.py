"""The command line as a user meets it: processes, exit codes, sentences."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backend.__main__
from backend import packs
from backend.errors import BadInput

ROOT = Path(__file__).parents[1]
TINY = [sys.executable, str(ROOT / "tests" / "stand_in_backend.py")]
REAL = [sys.executable, "-m", "backend"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(*arguments: str, command: list[str] = REAL, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, **options
    )


def test_help_is_instant_and_names_every_command() -> None:
    began = time.perf_counter()
    result = run("--help")
    assert time.perf_counter() - began < 2.0  # torch alone would take longer
    for command in ("generate", "views", "reconstruct", "mesh", "weights", "doctor", "serve", "train", "bench"):
        assert command in result.stdout
    listing = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "backend", "generate", "--help"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert "--prompt" in listing.stdout
    assert "torch" not in listing.stderr
    assert "numpy" not in listing.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["generate"],
        ["generate", "--prompt", "a mug"],
        ["generate", "--prompt", "a mug", "--out", "c", "--seed", "x"],
        ["mesh", "--out", "c"],
        ["weights", "dance"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        backend.__main__.main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "--prompt", " ", "--out", "{}"],
        ["generate", "--prompt", "mushroom " * 500, "--out", "{}"],
        ["generate", "--out", "{}"],
        ["generate", "--image", "none.png", "--out", "{}"],
        ["generate", "--prompt", "a mug", "--faces", "3", "--out", "{}"],
        ["generate", "--prompt", "a mug", "--recipe", "soup", "--out", "{}"],
        ["generate", "--from-stage", "mesh", "--out", "{}"],
        ["reconstruct", "--cameras", "none.json", "--out", "{}"],
        ["mesh", "none.ply", "--out", "{}"],
        ["weights", "download", "gold"],
        ["weights", "download"],
        ["weights", "download", "lgm"],
    ],
)
def test_bad_input_is_one_sentence_and_exits_with_1(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert backend.__main__.main([argument.replace("{}", out) for argument in arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert len(said.err) > 20
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["weights", "download"], "Which weights is not said. Name one of lgm-big, "),
        (["generate", "--prompt", "a mug", "--out", " "], "The output folder has no name."),
        (["generate", "--from-stage", "gaussians", "--out", "nowhere"], "The folder holds no job to go on with."),
    ],
)
def test_what_was_forgotten_is_named(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert backend.__main__.main(arguments) == 1
    assert capsys.readouterr().err.startswith(says)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process with tiny models; gives its exit code and what it printed."""
    import stand_ins

    import backend.job.pipeline
    from backend import recipes

    monkeypatch.setitem(recipes.RECIPES, "starter", stand_ins.TINY)
    monkeypatch.setattr(backend.job.pipeline, "_surface", stand_ins.quick_surface)
    monkeypatch.setattr(backend.job.pipeline, "_texture", stand_ins.quick_texture)

    def command(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = backend.__main__.main(arguments)
        said = capfd.readouterr()
        return code, said.out, said.err

    return command


def test_a_job_in_json(tmp_path: Path, tiny: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = tiny(
        *("generate", "--prompt", "noisy red mushroom", "--seed", "7", "--texture-size", "64", "--faces", "100"),
        *("--out", str(tmp_path), "--json"),
    )
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert {event["event"] for event in events} == {"progress", "preview", "warning", "done"}
    assert events[-1]["event"] == "done"
    assert Path(events[-1]["files"]["mesh_glb"]).is_file()
    assert "a native library writes this" in err
    assert json.loads((tmp_path / "request.json").read_text())["seed"] == 7
    print("standard output is back")
    assert tiny("weights", "list")[1].startswith("dmv3d")


def test_going_on_in_a_folder(tmp_path: Path, tiny: Callable[..., tuple[int, str, str]]) -> None:
    """Another mesh; then the folder's own views through `reconstruct`, its own Gaussians through `mesh`."""
    assert tiny("generate", "--prompt", "a mug", "--seed", "7", "--out", str(tmp_path))[0] == 0
    code, out, err = tiny("generate", "--from-stage", "mesh", "--texture-size", "128", "--out", str(tmp_path))
    assert code == 0
    assert out.splitlines()[0] == str(tmp_path / "mesh.glb")
    assert "Baking the texture" in err
    assert json.loads((tmp_path / "request.json").read_text())["texture_size"] == 128
    assert tiny("reconstruct", "--cameras", str(tmp_path / "transforms.json"), "--out", str(tmp_path))[0] == 0
    assert tiny("mesh", str(tmp_path / "gaussians.ply"), "--faces", "900", "--out", str(tmp_path))[0] == 0
    request = json.loads((tmp_path / "request.json").read_text())
    assert (request["prompt"], request["seed"], request["faces"]) == ("a mug", 7, 900)


def test_what_can_no_longer_be_changed_and_what_is_replaced_is_said(
    tmp_path: Path, tiny: Callable[..., tuple[int, str, str]]
) -> None:
    first = tiny("generate", "--prompt", "a mug", "--seed", "7", "--out", str(tmp_path))
    assert first[0] == 0
    assert "replaced" not in first[2]
    again = ("generate", "--prompt", "a boat", "--seed", "7", "--from-stage", "gaussians", "--out", str(tmp_path))
    code, _, err = tiny(*again)
    assert code == 0
    assert "prompt acted before this stage" in err
    assert "seed acted" not in err, "it is as it was"
    assert json.loads((tmp_path / "request.json").read_text())["prompt"] == "a mug"
    assert "acted" not in tiny("generate", "--from-stage", "mesh", "--faces", "200", "--out", str(tmp_path))[2]
    code, _, err = tiny("generate", "--prompt", "a boat", "--out", str(tmp_path))
    assert code == 0
    assert "will be replaced" in err


def test_views_only(tmp_path: Path, tiny: Callable[..., tuple[int, str, str]]) -> None:
    assert tiny("views", "--prompt", "a mug", "--out", str(tmp_path), "--steps", "2")[0] == 0
    assert (tmp_path / "views" / "003.png").is_file()
    assert not (tmp_path / "gaussians.ply").exists()


def test_failures_in_json(tmp_path: Path, tiny: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = tiny("generate", "--prompt", "failing mug", "--out", str(tmp_path / "job"), "--json")
    last = json.loads(out.splitlines()[-1])
    assert (code, last["event"], last["code"]) == (1, "error", "internal")
    assert "Traceback" in err
    code, out, err = tiny("generate", "--prompt", " ", "--out", str(tmp_path / "job"), "--json")
    last = json.loads(out.splitlines()[-1])
    assert (code, last["event"], last["code"]) == (1, "error", "bad_input")
    assert "Traceback" not in err


@pytest.mark.skipif(os.name != "posix", reason="a console's Ctrl-C cannot be sent to one process on Windows")
def test_ctrl_c_is_clean(tmp_path: Path) -> None:
    arguments = ["generate", "--prompt", "slow mug", "--steps", "500", "--out", str(tmp_path / "job"), "--json"]
    # A shell's background jobs ignore Ctrl-C, and their children with them; those of one that handles it do not.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [*TINY, *arguments], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert process.stdout is not None
    while json.loads(process.stdout.readline()).get("step", 0) < 1:
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-1])["code"] == "cancelled"
    assert "Traceback" not in err
    assert not list((tmp_path / "job").rglob(".unfinished*"))


def test_doctor_tells_what_there_is() -> None:
    facts = json.loads(run("doctor", "--json").stdout)
    assert facts["python"].startswith("3.")
    assert facts["device"] in ("cpu", "cuda", "mps")
    assert facts["cpu_count"] >= 1
    assert facts["memory_bytes"] > 2**28
    for problem in facts["problems"]:
        assert problem["message"]
        assert problem["fix"]


def test_doctor_survives_a_broken_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcuda is from another age')")
    (tmp_path / "numba.py").write_text("raise ImportError('no module')")
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    result = subprocess.run(
        [*REAL, "doctor", "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    problems = json.loads(result.stdout)["problems"]
    assert any("torch" in problem["message"] and "another age" in problem["message"] for problem in problems)
    hello = b'{"jsonrpc":"2.0","id":1,"method":"initialize"}\n'
    served = subprocess.run(
        [*REAL, "serve"], cwd=tmp_path, env=environment, input=hello, capture_output=True, timeout=60
    )
    answer = json.loads(served.stdout)
    assert answer["error"]["data"]["code"] in ("internal", "unsupported_device")
    assert "another age" in answer["error"]["message"]


def test_weights_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(packs, "FOLDER", tmp_path)
    header = json.dumps({"__metadata__": {"licence": '"CC0-1.0"'}}).encode()
    content = len(header).to_bytes(8, "little") + header
    (tmp_path / "lgm.safetensors").write_bytes(content)
    assert backend.__main__.main(["weights", "list", "--json"]) == 0
    listed = {pack["name"]: pack for pack in json.loads(capsys.readouterr().out)["packs"]}
    assert listed["dmv3d"]["present"] is False
    assert listed["lgm"]["licence"] == "CC0-1.0"
    assert listed["lgm"]["bytes"] == len(content)
    assert len(listed["lgm"]["sha256"]) == 64
    assert backend.__main__.main(["weights", "list"]) == 0
    assert "missing" in capsys.readouterr().out


def test_training_commands_are_found_or_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("train", "evaluate", "bench"):
        try:
            code = backend.__main__.main([command, "--help"])
        except SystemExit as end:
            code = int(end.code or 0)
        assert code in (0, 1)
        said = capsys.readouterr()
        assert said.out or said.err
        assert "Traceback" not in said.err


def test_a_closed_pipe_is_no_accident() -> None:
    process = subprocess.Popen(
        [*REAL, "weights", "list"], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.wait()
    process.stderr.close()


def test_the_sentence_joins_what_happened_and_what_to_do() -> None:
    assert backend.__main__._sentence(BadInput("It broke.", "Mend it.")) == "It broke. Mend it."
    assert backend.__main__._sentence(BadInput("It broke.")) == "It broke."
