"""Published checkpoints on disk: converted once, loaded straight into their dtype, and what does not fit is named."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch_files import EasyDict, install_easydict, touches

from backend.errors import BadInput, MissingWeights
from backend.nets.lgm import Lgm, LgmConfig
from backend.reconstruct.checkpoints import prepared
from backend.reconstruct.published_lgm import PublishedLgm
from backend.weights import load_checkpoint, load_network

SMALL = LgmConfig(
    down=(32, 32, 64), down_attention=(False, False, True), up=(64, 32), up_attention=(True, False), layers=1
)


@pytest.fixture
def lgm_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Lgm(SMALL).state_dict()


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.half() for key, value in state.items()}


def test_lgm_is_read_as_published_into_the_wanted_dtype(tmp_path: Path, lgm_state: dict[str, Tensor]) -> None:
    path = tmp_path / "model_fp16_fixrot.safetensors"
    save_file(half(lgm_state), path)
    assert prepared("lgm", path) == path
    model = PublishedLgm.load(path, dtype=torch.float32)
    assert model.rotations
    assert model.network.config == SMALL
    for key, value in model.network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, lgm_state[key].half().float()), key
    assert model.network.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    halved = PublishedLgm.load(path, dtype=torch.float16).network
    assert halved.unet.conv_in.weight.dtype == torch.float16
    assert halved.unet.conv_out.weight.dtype == halved.conv.bias.dtype == torch.float32


def test_old_names_of_lgm_know_no_rotations(tmp_path: Path, lgm_state: dict[str, Tensor]) -> None:
    for name, rotations in {
        "model_fp16.safetensors": False,
        "model.safetensors": False,
        "a_fixrot.safetensors": True,
    }.items():
        save_file(half(lgm_state), tmp_path / name)
        assert PublishedLgm.load(tmp_path / name).rotations is rotations


def test_what_does_not_fit_is_named(tmp_path: Path, lgm_state: dict[str, Tensor]) -> None:
    state = {key: value for key, value in lgm_state.items() if key != "unet.norm_out.bias"}
    state |= {"unet.extra": torch.zeros(1), "conv.weight": torch.zeros(3, 3)}
    save_file(state, tmp_path / "model_fixrot.safetensors")
    with pytest.raises(MissingWeights) as caught:
        PublishedLgm.load(tmp_path / "model_fixrot.safetensors")
    for name in ("lack unet.norm_out.bias", "unknown unet.extra", "misshape conv.weight", "model_fixrot.safetensors"):
        assert name in caught.value.message
    (tmp_path / "model_fixrot.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(MissingWeights, match="damaged"):
        PublishedLgm.load(tmp_path / "model_fixrot.safetensors")
    with pytest.raises(MissingWeights, match="not in"):
        PublishedLgm.load(tmp_path / "absent_fixrot.safetensors")


def test_a_portion_at_a_time_is_the_whole(tmp_path: Path, lgm_state: dict[str, Tensor], monkeypatch: Any) -> None:
    save_file(lgm_state, tmp_path / "a.safetensors")
    monkeypatch.setattr("backend.weights._portions.__defaults__", (1000,))
    with torch.device("meta"):
        network = Lgm(SMALL)
    load_network(network, tmp_path / "a.safetensors")
    assert all(torch.equal(value, lgm_state[key]) for key, value in network.state_dict().items())


# -- GRM ------------------------------------------------------------------------------------------------------------


def grm(**changes: Any) -> tuple[Any, dict[str, Any]]:
    """A small GRM and the pickled config that belongs to it."""
    from backend.nets.grm_config import GrmConfig

    visual = {"window_size": 16, "bwindow_size": None, "scaling_activation_type": "exp", "scale_offset": -2.0,
              "scale_max": 0.5, "patch_size": 8, "half_res_input": False}  # fmt: skip
    config = GrmConfig(
        input_res=32, patch_size=8, layers=1, width=64, decoder_ratio=1, window_size=16, scaling_activation_type="exp",
        scale_offset=-2.0, scale_max=0.5,
    )  # fmt: skip
    return config, EasyDict(visual=EasyDict(params=EasyDict({**visual, **changes})), render=EasyDict(params=EasyDict()))


def saved_grm(path: Path, changes: dict[str, Tensor | None] | None = None, zipped: bool = True, **more: Any) -> Path:
    from backend.nets.grm import Grm

    config, model_config = grm()
    torch.manual_seed(1)
    state = OrderedDict((f"module.{key}", value) for key, value in Grm(config).state_dict().items())
    for key, value in (changes or {}).items():
        if value is None:
            del state[key]
        else:
            state[key] = value
    content = {"model": state, "config": EasyDict(model_config=model_config), "epoch": 3, **more}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_grm_is_converted_once(tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    install_easydict(monkeypatch)
    from backend.nets.grm import Grm
    from backend.nets.grm_config import GrmConfig

    source = saved_grm(tmp_path / "grm_u.pth", zipped=zipped)
    monkeypatch.delitem(sys.modules, "easydict")  # readers have no such package
    path = prepared("grm", source)
    assert path == tmp_path / "grm_u.safetensors"
    state, metadata = load_checkpoint(path)
    assert GrmConfig.from_dict(metadata["config"]) == grm()[0]
    assert metadata["source"]["file"] == "grm_u.pth"
    torch.manual_seed(1)
    expected = Grm(grm()[0]).state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.items())
    written = path.stat().st_mtime_ns
    assert prepared("grm", source) == path
    assert path.stat().st_mtime_ns == written
    source.unlink()
    assert prepared("grm", source) == path


def test_grm_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_easydict(monkeypatch)
    opacity = "module.visual_encoder.out_layer_opacity.weight"
    for change, words in (
        ({opacity: None}, "lack visual_encoder.out_layer_opacity.weight"),
        ({opacity: torch.zeros(1)}, "misshape visual_encoder.out_layer_opacity.weight"),
        ({"module.lpips.weight": torch.zeros(1)}, "unknown lpips.weight"),
    ):
        source = saved_grm(tmp_path / "grm_u.pth", change)
        with pytest.raises(MissingWeights, match=words.replace(".", r"\.")):
            prepared("grm", source)
        assert not (tmp_path / "grm_u.safetensors").exists()
    torch.save({"state": {}}, tmp_path / "grm_u.pth")
    with pytest.raises(MissingWeights, match="'model'"):
        prepared("grm", tmp_path / "grm_u.pth")


def test_grm_with_a_payload_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_easydict(monkeypatch)
    made = tmp_path / "made"
    source = saved_grm(tmp_path / "grm_u.pth", optimizer=touches(made))
    with pytest.raises(BadInput, match=r"mkdir"):
        prepared("grm", source)
    assert not made.exists()
    assert sorted(os.listdir(tmp_path)) == ["grm_u.pth"]


# -- GeoLRM ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
def test_geolrm_is_converted_without_its_losses(tmp_path: Path, wrapped: bool) -> None:
    from backend.nets.dinov2 import Dinov2Config
    from backend.nets.geolrm import GeoLrm
    from backend.nets.geolrm_config import GeoLrmConfig, StageConfig

    dino = Dinov2Config(64, 1, 1, 14, 5)
    stage = StageConfig(48, 1, 16, 3, 32, dino)
    torch.manual_seed(2)
    network = GeoLrm(GeoLrmConfig(stage, stage, block=4, gaussians=4))
    state = dict(network.state_dict())
    content: dict[str, Any] = {**state, "lpips.net.weight": torch.zeros(3)}
    torch.save({"state_dict": content, "epoch": 1} if wrapped else content, tmp_path / "geolrm.ckpt")
    path = prepared("geolrm", tmp_path / "geolrm.ckpt")
    assert set(load_file(path)) == set(state)
    assert all(torch.equal(value, state[key]) for key, value in load_file(path).items())
    torch.save({**content, "serializer.surplus": torch.zeros(1)}, tmp_path / "b.ckpt")
    with pytest.raises(MissingWeights, match=r"unknown serializer\.surplus"):
        prepared("geolrm", tmp_path / "b.ckpt")
    torch.save(torch.zeros(3), tmp_path / "c.ckpt")
    with pytest.raises(MissingWeights, match="no weights"):
        prepared("geolrm", tmp_path / "c.ckpt")
