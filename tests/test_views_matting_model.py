"""Cutting out by a published network: only where its file and its runtime are on the machine; nothing is fetched."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import json
import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.downloads.download import import_from
from backend.errors import BadInput, MissingWeights, OutOfMemory
from backend.formats.images import write_png
from backend.job.jobfolder import JobFolder
from backend.job.models import Models
from backend.job.report import Report
from backend.job.request import Request
from backend.packs import PUBLISHED
from backend.views import matting_model
from backend.views.picture import Picture, Way, further_packs, load_picture, prepare_picture, separated

PACK = PUBLISHED["matting"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPLATSMITH_HOME", str(tmp_path / "home"))
    matting_model._session.cache_clear()
    return tmp_path


def bright_thing(size: int = 160) -> np.ndarray:
    """A light disc before noise from black to grey: no plain background."""
    busy = np.random.default_rng(0).uniform(0.0, 0.45, (size, size, 3)).astype(np.float32)
    y, x = np.mgrid[0:size, 0:size]
    busy[(x - 90) ** 2 + (y - 70) ** 2 < 40**2] = (1.0, 0.9, 0.8)
    return busy


def picture_of(rgb: np.ndarray) -> Picture:
    return Picture(torch.cat([torch.from_numpy(rgb).permute(2, 0, 1), torch.ones(1, *rgb.shape[:2])]), had_alpha=False)


class StandIn:
    """onnxruntime with a network that finds bright things; remembers what it was given."""

    def __init__(self, logits: bool = True) -> None:
        self.logits, self.given = logits, list[np.ndarray]()
        self.fail: Exception | None = None

    def module(self) -> Any:
        module: Any = types.ModuleType("onnxruntime")
        module.__spec__ = importlib.machinery.ModuleSpec("onnxruntime", None)
        module.disable_telemetry_events = lambda: None
        module.SessionOptions = types.SimpleNamespace
        module.InferenceSession = self._session
        return module

    def _session(self, path: str, options: Any, providers: list[str]) -> StandIn:
        assert Path(path).is_file()
        assert providers == ["CPUExecutionProvider"]
        return self

    def get_inputs(self) -> list[Any]:
        return [types.SimpleNamespace(name="pixels")]

    def run(self, outputs: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        if self.fail:
            raise self.fail
        self.given.append(given["pixels"])
        mean = given["pixels"].mean(1, keepdims=True)
        return [8 * mean - 4 if self.logits else mean, mean]


@pytest.fixture
def runtime(home: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in.module())
    return stand_in


def imported(folder: Path, name: str = "model.onnx", content: bytes = b"a network") -> Path:
    (folder / name).write_bytes(content)
    return import_from(PACK, folder / name, lambda text: None)


def test_the_network_goes_with_all_others(home: Path, runtime: StandIn) -> None:
    imported(home)
    separated(picture_of(bright_thing()), [])
    assert matting_model._session.cache_info().currsize == 1
    Models().release()
    assert matting_model._session.cache_info().currsize == 0


def test_a_busy_background_is_no_obstacle_to_the_network(home: Path, runtime: StandIn) -> None:
    path = imported(home)
    assert path == PACK.folder / "onnx" / "model.onnx"
    assert PACK.present
    assert PACK.describe()["sha256"]
    warnings: list[str] = []
    rgba, way = separated(picture_of(bright_thing()), warnings)
    assert way is Way.NETWORK
    y, x = np.mgrid[0:160, 0:160]
    truth = torch.from_numpy((x - 90) ** 2 + (y - 70) ** 2 < 40**2)
    inside = rgba[3] > 0.5
    assert float((inside & truth).sum() / (inside | truth).sum()) > 0.95
    # Half-covered pixels show the disc's colour, not what was behind it.
    edge = (rgba[3] > 0.1) & (rgba[3] < 0.9)
    assert float((rgba[:3, edge] - torch.tensor([1.0, 0.9, 0.8])[:, None]).abs().mean()) < 0.05
    assert runtime.given[0].shape == (1, 3, 1024, 1024)
    assert further_packs(warnings) == ["matting"]
    assert further_packs(["Something else."]) == []


@pytest.mark.parametrize(
    ("name", "side", "brightest"), [("u2net.onnx", 320, 2.64), ("isnet-general-use.onnx", 1024, 0.5)]
)
def test_each_network_sees_what_it_was_trained_on(
    home: Path, runtime: StandIn, name: str, side: int, brightest: float
) -> None:
    runtime.logits = False
    assert imported(home, name).name == name
    rgb = bright_thing()
    rgb[rgb.sum(-1) > 2] = 1.0
    rgba, way = separated(picture_of(rgb), [])
    assert way is Way.NETWORK
    assert runtime.given[0].shape == (1, 3, side, side)
    assert float(runtime.given[0].max()) == pytest.approx(brightest, abs=0.01)
    assert float(rgba[3, 70, 90]) > 0.95  # saliency is stretched: the strongest is the object


def test_alpha_comes_first(home: Path, runtime: StandIn) -> None:
    imported(home)
    rgba = torch.zeros(4, 64, 64)
    rgba[:, 10:50, 20:40] = 1.0
    assert prepare_picture(Picture(rgba, had_alpha=True), 64, 0.8)[1] == []
    assert runtime.given == []


def test_without_weights_or_runtime_a_simpler_way_is_taken(
    home: Path, runtime: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = np.full((96, 96, 3), 0.9, np.float32)
    plain[30:60, 30:60] = (0.7, 0.1, 0.1)
    warnings: list[str] = []
    assert separated(picture_of(plain), warnings)[1] is Way.PLAIN
    assert warnings == []
    imported(home)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(matting_model, "runtime_installed", lambda: False)
    assert separated(picture_of(plain), warnings)[1] is Way.PLAIN
    assert "pip install onnxruntime" in warnings[0]


def test_what_the_network_does_not_see_is_looked_for_otherwise(home: Path, runtime: StandIn) -> None:
    imported(home)
    dark = np.full((96, 96, 3), 0.3, np.float32)
    dark[30:60, 30:60] = 0.05
    assert separated(picture_of(dark), [])[1] is Way.PLAIN


def test_the_report_names_the_network_and_its_licence(home: Path, runtime: StandIn) -> None:
    imported(home)
    write_png(home / "photo.png", torch.from_numpy(bright_thing()).permute(2, 0, 1))
    request = Request.from_json({"image": str(home / "photo.png")})
    report = Report(request, JobFolder(home / "job"))
    report.begin(["views"], "cpu")
    JobFolder(home / "job").create()
    report.write({}, prepare_picture(load_picture(home / "photo.png"), 64, 0.8)[1])
    written = json.loads((home / "job" / "report.json").read_text())
    assert [(pack["name"], pack["licence"]) for pack in written["weights"]] == [("matting", "MIT")]
    assert written["weights"][0]["sha256"] == hashlib.sha256(b"a network").hexdigest()


def test_failures_name_file_and_cure(home: Path, runtime: StandIn) -> None:
    imported(home)
    runtime.fail = RuntimeError("Failed to allocate memory for requested buffer")
    with pytest.raises(OutOfMemory, match="memory"):
        separated(picture_of(bright_thing()), [])
    runtime.fail = RuntimeError("INVALID_PROTOBUF")
    with pytest.raises(MissingWeights, match=r"model\.onnx") as caught:
        separated(picture_of(bright_thing()), [])
    assert "weights download matting" in caught.value.fix


def test_the_refusal_of_a_plain_picture_names_the_network(home: Path) -> None:
    with pytest.raises(BadInput) as caught:
        separated(picture_of(np.full((64, 64, 3), 0.8, np.float32)), [])
    assert "weights download matting" in caught.value.fix


# -- the real runtime -------------------------------------------------------------------------------------------------


def field(number: int, value: bytes | int | str) -> bytes:
    """A field of a protocol buffer: ONNX files are such."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    rest = value >> 7
    return bytes([value & 0x7F | 0x80]) + varint(rest) if rest else bytes([value])


def bright_network() -> bytes:
    """ONNX: 8 times the mean of the channels less 4, for pictures of 1024."""

    def tensor(name: str, channels: int) -> bytes:
        shape = b"".join(field(1, field(1, side)) for side in (1, channels, 1024, 1024))
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    def number(name: str, value: float) -> bytes:
        return field(2, 1) + field(8, name) + field(9, struct.pack("<f", value))

    def node(kind: str, inputs: list[str], output: str, attributes: bytes = b"") -> bytes:
        return b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind) + attributes

    axes = field(5, field(1, "axes") + field(8, varint(1)) + field(20, 7))
    keep = field(5, field(1, "keepdims") + field(3, 1) + field(20, 2))
    nodes = [
        node("ReduceMean", ["pixels"], "mean", axes + keep), node("Mul", ["mean", "eight"], "product"),
        node("Sub", ["product", "four"], "alpha"),
    ]  # fmt: skip
    graph = b"".join(field(1, each) for each in nodes) + field(2, "bright")
    graph += field(5, number("eight", 8.0)) + field(5, number("four", 4.0))
    graph += field(11, tensor("pixels", 3)) + field(12, tensor("alpha", 1))
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime")
def test_the_real_runtime_computes_a_real_file(home: Path) -> None:
    imported(home, content=bright_network())
    rgba, way = separated(picture_of(bright_thing()), [])
    assert way is Way.NETWORK
    assert float(rgba[3, 70, 90]) > 0.95
    assert float(rgba[3, 150, 10]) < 0.05
    PACK.path.write_bytes(b"rubbish in its place" * 10)
    matting_model._session.cache_clear()
    with pytest.raises(MissingWeights, match="damaged"):
        matting_model.model_matte(bright_thing(), PACK.path)
