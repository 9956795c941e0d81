"""Which device computes, and an honest sentence where it cannot be the one that was asked for."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import torch

from backend import device
from backend.errors import UnsupportedDevice
from backend.frontend import doctor


def test_the_cpu_is_always_there() -> None:
    assert device.pick_device("cpu") == "cpu"
    assert device.pick_device() in device.CHOICES[1:]
    devices = device.describe_devices()
    assert devices[-1]["name"] == "cpu"
    assert devices[-1]["usable"]
    assert device.cpu_count() >= 1
    assert (device.memory_bytes() or 0) > 2**28


def test_a_device_that_is_not_there_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.pick_device("auto") == "cpu"
    for name in ("cuda", "mps", "abacus", "cuda:0; rm"):
        with pytest.raises(UnsupportedDevice) as caught:
            device.pick_device(name)
        assert caught.value.fix


def test_a_card_that_this_torch_cannot_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card newer than the build of torch: listed as available, but every kernel fails."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(device, "_works", lambda name: name == "cpu")
    assert device.pick_device("auto") == "cpu"
    with pytest.raises(UnsupportedDevice, match="cannot compute"):
        device.pick_device("cuda")


def test_a_container_has_less_memory_than_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins
    import io

    real = builtins.open

    def fake(path: object, *rest: object, **options: object) -> object:
        return io.StringIO("536870912\n") if path == "/sys/fs/cgroup/memory.max" else real(path, *rest, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", fake)
    assert device.memory_bytes() == 536870912


def test_half_precision_is_left_to_cards_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for title, dtype in (("NVIDIA GeForce GTX 1660 SUPER", torch.float32), ("NVIDIA H100", torch.float16)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, title=title: title)
        assert device.inference_dtype("cuda", torch.float16) == dtype
    assert device.inference_dtype("mps", torch.float16) == torch.float16
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda name: False)
    assert device.inference_dtype("cpu", torch.float16) == torch.float32


def test_the_disk_that_is_looked_at_is_the_one_that_fills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLATSMITH_HOME", str(tmp_path / "not" / "there yet"))
    asked: list[Path] = []

    def usage(path: Path) -> types.SimpleNamespace:
        asked.append(path)
        return types.SimpleNamespace(free=5 * 1024**2)

    monkeypatch.setattr("shutil.disk_usage", usage)
    said = [problem["message"] for problem in doctor.examine()["problems"]]
    assert asked == [tmp_path]
    assert f"The disk with {tmp_path / 'not' / 'there yet'} has only 5 MB free." in said
