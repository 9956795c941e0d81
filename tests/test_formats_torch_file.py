"""Files of torch.save are read, and nothing in them is ever executed."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_files import EasyDict, install_easydict, touches

from backend.errors import BadInput, MissingWeights, SplatsmithError
from backend.formats.plain_pickle import StoredTensor
from backend.formats.torch_file import read_torch_file

LAYOUTS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])


def saved(content: Any, path: Path, zipped: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@LAYOUTS
def test_tensors_and_plain_values_come_back(tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    install_easydict(monkeypatch)
    base = torch.arange(24, dtype=torch.float32)
    state = OrderedDict(
        plain=torch.randn(3, 5),
        half=torch.randn(7).half(),
        brain=torch.randn(4).bfloat16(),
        counter=torch.tensor(7),
        yes=torch.tensor([True, False]),
        view=base[4:16].view(3, 4),
        turned=base.view(4, 6).t(),
        weight=torch.nn.Parameter(torch.randn(2, 2)),
        nothing=torch.empty(0, 3),
    )
    state._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]
    config = EasyDict()
    config.model_config = EasyDict()
    config.model_config.sizes = [1, 2.5, -3, 2**40, None, True, "word", ("a", 1)]
    read = read_torch_file(saved({"model": state, "config": config, 3: "three"}, tmp_path / "a.pth", zipped))
    assert type(read["config"]) is dict
    assert read["config"] == {"model_config": {"sizes": [1, 2.5, -3, 2**40, None, True, "word", ("a", 1)]}}
    assert read[3] == "three"
    assert list(read["model"]) == list(state)
    for name, expected in state.items():
        loaded = read["model"][name].load()
        assert loaded.dtype == expected.dtype
        assert torch.equal(loaded, expected), name


HIDING_PLACES: dict[str, Callable[[Any], Any]] = {
    "alone": lambda payload: payload,
    "beside the weights": lambda payload: {"model": OrderedDict(a=torch.zeros(2)), "config": payload},
    "among the weights": lambda payload: {"model": OrderedDict(a=torch.zeros(2), b=payload)},
    "in a list": lambda payload: {"model": [1, [payload]]},
    "in a tuple": lambda payload: {"model": (1, (payload, 2))},
}


@pytest.mark.parametrize("place", list(HIDING_PLACES))
@LAYOUTS
def test_a_payload_does_not_run(place: str, zipped: bool, tmp_path: Path) -> None:
    made = tmp_path / "made by the payload"
    path = saved(HIDING_PLACES[place](touches(made)), tmp_path / "evil.pth", zipped)
    with pytest.raises(BadInput, match=r"mkdir.*not loaded"):
        read_torch_file(path)
    assert not made.exists()
    torch.load(path, weights_only=False)  # the payload is alive: what is commonly done runs it
    assert made.is_dir()


def raw(*instructions: bytes) -> bytes:
    return b"\x80\x02" + b"".join(instructions) + b"."


def legacy(content: bytes, keys: list[str] | None = None) -> bytes:
    """A file of the older layout around a pickle made by hand."""
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(head) + content + pickle.dumps(keys or [], 2)


def archive(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", b"3")
    return buffer.getvalue()


BY_HAND = {
    "a call": raw(b"cos\nsystem\n", b"X\x04\x00\x00\x00true", b"\x85R"),
    "a name alone": raw(b"cos\nsystem\n"),
    "a name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "an instance": raw(b"(cos\nsystem\n", b"o"),
    "an instance of old": raw(b"(X\x04\x00\x00\x00trueios\nsystem\n"),
    "a new object": raw(b"csubprocess\nPopen\n", b"X\x04\x00\x00\x00true\x85\x81"),
    "a new object with words": b"\x80\x04csubprocess\nPopen\n)}\x92.",
    "an extension's code": raw(b"\x82\x01"),
    "a reference by name": raw(b"Pmodule\n"),
    "bytes": b"\x80\x03C\x02hi.",
    "a set": b"\x80\x04\x8f.",
    "a state of a list": raw(b"]}b"),
    "items of a list": raw(b"]K\x01K\x02s"),
    "additions to a dict": raw(b"}K\x01a"),
    "a function as a value": raw(b"}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\ns"),
    "a tensor of a list": raw(b"ctorch._utils\n_rebuild_tensor_v2\n", b"(]K\x00)))tR"),
    "a dict of a call": raw(b"ccollections\nOrderedDict\n", b"X\x02\x00\x00\x00os\x85R"),
    "torch's own code": raw(b"ctorch\nload\n)R"),
    "getattr": raw(b"cbuiltins\ngetattr\n"),
    "a submodule with a dot": raw(b"ctorch\nserialization.os.system\n"),
}


@pytest.mark.parametrize("what", list(BY_HAND))
@pytest.mark.parametrize("around", [legacy, archive], ids=["before 1.6", "zip"])
def test_pickles_made_by_hand_are_refused(
    what: str, around: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("the payload ran"))
    path = tmp_path / "evil.ckpt"
    path.write_bytes(around(BY_HAND[what]))
    with pytest.raises(BadInput, match=r"evil\.ckpt holds more than weights"):
        read_torch_file(path)


def reference(key: str = "0", count: int = 4, kind: bytes = b"FloatStorage") -> bytes:
    """What stands for a storage in a pickle."""
    word = b"X\x07\x00\x00\x00storage"
    name = b"X" + len(key).to_bytes(4, "little") + key.encode()
    return (
        b"("
        + word
        + b"ctorch\n"
        + kind
        + b"\n"
        + name
        + b"X\x03\x00\x00\x00cpuJ"
        + count.to_bytes(4, "little")
        + b"NtQ"
    )


@pytest.mark.parametrize("offset", [0, 1, 200])
def test_a_tensor_cannot_reach_beyond_its_numbers(offset: int, tmp_path: Path) -> None:
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference() + b"K" + bytes([offset]) + b"K\x02K\x02\x86K\x02K\x01\x86"
    )
    content = raw(b"}X\x01\x00\x00\x00a", tensor, b"\x89NtRs")
    numbers = (4).to_bytes(8, "little") + torch.arange(4.0).numpy().tobytes()
    path = tmp_path / "a.pth"
    path.write_bytes(legacy(content, ["0"]) + numbers)
    if offset == 0:
        assert torch.equal(read_torch_file(path)["a"].load(), torch.arange(4.0).view(2, 2))
        return
    with pytest.raises(MissingWeights, match="damaged"):
        read_torch_file(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's reader of strings that are none
@LAYOUTS
def test_damaged_files_are_an_error_that_says_so(zipped: bool, tmp_path: Path) -> None:
    content = {"model": OrderedDict(a=torch.randn(4, 4), b=torch.arange(3)), "config": {"x": 1}}
    good = saved(content, tmp_path / "good.pth", zipped).read_bytes()
    path = tmp_path / "bad.pth"
    chance = random.Random(7)
    for trial in range(300):
        bad = bytearray(good)
        if trial % 2:
            bad = bad[: chance.randrange(len(bad))]
        else:
            for _ in range(3):
                bad[chance.randrange(len(bad))] = chance.randrange(256)
        path.write_bytes(bad)
        with suppress(SplatsmithError):
            read = read_torch_file(path)
            for tensor in read["model"].values() if isinstance(read, dict) and "model" in read else ():
                assert isinstance(tensor.load() if isinstance(tensor, StoredTensor) else torch.zeros(0), Tensor)


def test_other_files_are_no_weights(tmp_path: Path) -> None:
    for name, content in {"empty.pth": b"", "text.pth": b"<html>not found</html>", "zip.pth": archive(b"")}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SplatsmithError, match=name):
            read_torch_file(tmp_path / name)
    with pytest.raises(MissingWeights, match="no file"):
        read_torch_file(tmp_path / "absent.pth")
