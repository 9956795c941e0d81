"""What needs no download makes no network call at all: processes in which each would be noted and refused."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_client import ROOT, Client

PROGRAM = [sys.executable, "-m", "backend"]
with_libraries = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("diffusers", "transformers")),
    reason="needs diffusers and transformers: pip install '.[published]'",
)


@pytest.fixture
def offline(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which the network is out of reach; afterwards nothing may have been tried."""
    plain = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "SPLATSMITH_OFFLINE")}
    search = os.pathsep.join(str(path) for path in (ROOT / "tests" / "no_network", ROOT, ROOT / "tests"))
    tried = tmp_path / "tried"
    yield {
        **plain, "PYTHONPATH": search, "TRIED": str(tried), "SPLATSMITH_HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    assert not tried.exists(), tried.read_text()


def run(command: list[str], environment: dict[str, str], **settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=ROOT, env={**environment, **settings}, capture_output=True, text=True, timeout=300
    )


def test_the_ban_is_in_force(tmp_path: Path, offline: dict[str, str]) -> None:
    """Else the other tests would say nothing."""
    tries = ("socket.create_connection(('127.0.0.1', 9))", "socket.getaddrinfo('a.invalid', 80)",
             "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))")  # fmt: skip
    for attempt in tries:
        done = run([sys.executable, "-c", f"import socket; {attempt}"], offline)
        assert "is forbidden here" in done.stderr
    tried = tmp_path / "tried"
    assert len(tried.read_text().splitlines()) >= len(tries)
    tried.unlink()


@pytest.mark.skipif(os.name != "posix", reason="the server is started through the command env")
def test_the_server_and_a_starter_job_stay_off_the_network(tmp_path: Path, offline: dict[str, str]) -> None:
    settings = [f"{key}={value}" for key, value in offline.items()]
    server = Client(["env", *settings, "HF_HUB_OFFLINE=1", *PROGRAM, "serve"])
    try:
        for method in ("initialize", "doctor", "weights.status"):
            assert "result" in server.call(method)
        refused = server.call("weights.download", name="lgm-big", accept=True)
        assert refused["error"]["data"]["code"] == "offline"
        assert "HF_HUB_OFFLINE" in refused["error"]["message"]
        request = {"prompt": "a red mug", "steps": 1, "faces": 100, "texture_size": 64}
        job = server.send("generate", job="a", folder=str(tmp_path / "job"), request=request)
        answer = server.answer(job, 240)
        assert "result" in answer, answer
        assert (tmp_path / "job" / "mesh.glb").is_file()
    finally:
        server.close()


# Everything is imported first: neither the project's modules nor the libraries may fetch anything by being looked at.
PUBLISHED_JOBS = """
import importlib, pkgutil, sys
from pathlib import Path
import backend
for found in pkgutil.walk_packages(backend.__path__, "backend."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
import huggingface_hub, diffusers, transformers
import torch
import backend.__main__, backend.job.pipeline, stand_ins, test_pipeline_multiview
from backend.reconstruct.published_lgm import PublishedLgm
from backend.views import mvdream_untrained
from multiview_cases import SMALL
from zero123plus_folder import TILE, write_folder

made = PublishedLgm.untrained.__func__
def small(cls, device, dtype):
    model = made(cls, test_pipeline_multiview.SMALL_LGM, device=device)
    model.size = 64
    return model
PublishedLgm.untrained = classmethod(small)
mvdream_untrained.FULL = SMALL
backend.job.pipeline._surface, backend.job.pipeline._texture = stand_ins.quick_surface, stand_ins.quick_texture

out = Path(sys.argv[1])
job = ["generate", "--recipe", "lgm", "--prompt", "a red ball", "--random-weights", "--steps", "1"]
assert backend.__main__.main([*job, "--texture-size", "64", "--out", str(out / "random")]) == 0
assert (out / "random" / "mesh.glb").is_file()

from backend.views.zero123plus import Zero123PlusGenerator
generator = Zero123PlusGenerator.load(write_folder(out / "folder"), tile=TILE)
image = torch.ones(4, generator.image_size, generator.image_size)
assert list(generator.generate(None, image, seed=0, steps=1, guidance=4.0))
assert backend.__main__.main(["weights", "list"]) == 0
assert backend.__main__.main(["doctor"]) in (0, 1)
assert backend.__main__.main(["weights", "download", "lgm-big", "--yes"]) == 1
"""


@with_libraries
def test_published_models_of_this_machine_stay_off_the_network(tmp_path: Path, offline: dict[str, str]) -> None:
    done = run([sys.executable, "-c", PUBLISHED_JOBS, str(tmp_path)], offline, SPLATSMITH_OFFLINE="1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Offline mode is on (SPLATSMITH_OFFLINE)" in done.stderr
