"""Training: resumable to the bit, averaged, budgeted; losses that fall; checkpoints that load and say what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from backend.__main__ import main
from backend.errors import BadInput, MissingWeights
from backend.nets.diffusion import log_snr
from backend.nets.dmv3d import Dmv3d, Dmv3dConfig
from backend.nets.lgm import Lgm, LgmConfig
from backend.reconstruct.lgm import LgmReconstructor
from backend.training import dmv3d, lgm
from backend.training.commands import export
from backend.training.dataset import dmv3d_batch
from backend.training.imagined import imagined_batch
from backend.training.lgm_dataset import lgm_batch
from backend.training.loop import Budget, LoopOptions, learning_rate_factor, load_state, train
from backend.views.dmv3d import Dmv3dGenerator
from backend.vocabulary import TOKENS, Vocabulary
from backend.weights import load_checkpoint, load_into, save_checkpoint, sha256_of

SMALL_LGM = LgmConfig(
    inputs=11, down=(8, 16), down_attention=(False, True), up=(16,), up_attention=(True,), layers=1, heads=2, groups=4,
    along_rays=True,
)  # fmt: skip


def _line() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def _loss(network: nn.Module, first: int):
    generator = torch.Generator().manual_seed(first)
    x = torch.randn(4, 3, generator=generator)
    loss = (network(x)[:, 0] - x.sum(1)).square().mean()
    return loss, {"loss": float(loss.detach())}


def _watch(network: nn.Module, folder: Path, step: int) -> dict[str, float]:
    return {"weight": float(network.weight.detach().sum())}


def _options(folder: Path, steps: int) -> LoopOptions:
    return LoopOptions(folder, Budget(steps=steps), batch=4, learning_rate=0.05, warm_up=3, decay_share=0.0001)


def test_an_interrupted_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    whole = train(_line(), _loss, _options(tmp_path / "whole", 30), _watch, {})
    train(_line(), _loss, _options(tmp_path / "parts", 17), _watch, {})
    parts = train(_line(), _loss, _options(tmp_path / "parts", 30), _watch, {})
    for key, value in whole.values.items():
        assert torch.equal(value, parts.values[key])
    assert load_state(tmp_path / "parts")["step"] == 30  # type: ignore[index]
    assert len((tmp_path / "parts" / "log.txt").read_text().splitlines()) == 2


def test_training_learns_and_the_average_follows(tmp_path: Path) -> None:
    ema = train(_line(), _loss, _options(tmp_path, 400), _watch, {})
    assert torch.allclose(ema.values["weight"], torch.ones(1, 3), atol=0.05)


def test_a_batch_that_is_not_finite_is_passed_over(tmp_path: Path) -> None:
    def loss(network: nn.Module, first: int):
        value, figures = _loss(network, first)
        return (value * float("nan") if first == 8 else value), figures

    ema = train(_line(), loss, _options(tmp_path, 6), _watch, {})
    assert all(torch.isfinite(value).all() for value in ema.values.values())


def test_the_learning_rate_warms_up_and_comes_down() -> None:
    options = LoopOptions(Path(), Budget(steps=1000), warm_up=10, decay_share=0.5)
    assert learning_rate_factor(0, 0.0, options) == pytest.approx(0.1)
    assert learning_rate_factor(100, 0.1, options) == 1.0
    assert learning_rate_factor(750, 0.75, options) == pytest.approx(0.5)
    assert 0 < learning_rate_factor(999, 0.999, options) < 0.05


def test_a_broken_state_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(BadInput, match="cannot be read"):
        load_state(tmp_path)


def test_an_exported_run_loads_as_a_generator(tmp_path: Path) -> None:
    config = Dmv3dConfig(
        vocabulary=len(TOKENS), image_size=32, width=48, heads=3, encoder_blocks=1, decoder_blocks=1, plane_tokens=4
    )
    network = Dmv3d(config)
    state = {"network": {}, "ema": network.state_dict(), "optimizer": {}, "step": 7, "seconds": 120.0,
             "card": {"model": "dmv3d", "config": config.to_dict(), "tokens": list(TOKENS), "seed": 3}}  # fmt: skip
    torch.save(state, tmp_path / "state.pt")
    export(tmp_path, tmp_path / "dmv3d.safetensors")
    generator = Dmv3dGenerator.load(tmp_path / "dmv3d.safetensors")
    assert generator.image_size == 2 * 32
    assert generator.vocabulary.encode("a red wyvern").unknown == ["wyvern"]
    _, card = load_checkpoint(tmp_path / "dmv3d.safetensors")
    assert (card["steps"], card["minutes"], card["seed"]) == (7, 2.0, 3)
    with pytest.raises(BadInput, match="no training run"):
        export(tmp_path / "elsewhere", tmp_path / "x.safetensors")


def test_training_goes_on_with_the_sizes_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dmv3d, "watch", lambda *_: lambda *_: {})
    config = Dmv3dConfig(
        vocabulary=len(TOKENS), image_size=32, width=48, heads=3, encoder_blocks=1, decoder_blocks=1, plane_tokens=4
    )
    card = {"model": "dmv3d", "config": config.to_dict(), "tokens": list(TOKENS)}
    save_checkpoint(tmp_path / "tiny.safetensors", Dmv3d(config).state_dict(), card, torch.float16)
    weights = str(tmp_path / "tiny.safetensors")
    more = ["--steps", "1", "--batch", "1", "--watch-minutes", "1e9", "--from-weights", weights]
    assert main(["train", "dmv3d", "--out", str(tmp_path / "run"), *more]) == 0
    _, trained = load_checkpoint(tmp_path / "run" / "dmv3d.safetensors")
    assert trained["config"] == config.to_dict()
    assert trained["steps"] == 1


def test_the_large_network_can_be_built() -> None:
    with torch.device("meta"):
        large = dmv3d.new_network(Vocabulary(), **dmv3d.NETWORKS["large"])
    assert large.config.image_size == 128
    assert 150e6 < sum(weight.numel() for weight in large.parameters()) < 250e6


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    network = Lgm(SMALL_LGM)
    state = network.state_dict()
    state["surplus"] = torch.zeros(1)
    del state["conv.bias"]
    state["conv.weight"] = torch.zeros(2)
    with pytest.raises(MissingWeights) as caught:
        load_into(network, state, "x.safetensors")
    assert all(word in str(caught.value) for word in ("surplus", "conv.bias", "conv.weight"))


def test_absent_and_damaged_weights(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"lgm\.safetensors"):
        LgmReconstructor.load(tmp_path / "lgm.safetensors")
    path = tmp_path / "lgm.safetensors"
    save_checkpoint(path, {"a": torch.ones(2)}, {"config": {}}, torch.float16)
    assert len(sha256_of(path)) == 64
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(MissingWeights, match="damaged"):
        load_checkpoint(path)


def test_the_denoisers_loss_falls_on_one_batch() -> None:
    torch.manual_seed(0)
    config = Dmv3dConfig(
        vocabulary=len(TOKENS), image_size=32, width=48, heads=3, encoder_blocks=1, decoder_blocks=1, plane_tokens=4
    )
    network = Dmv3d(config)
    batch = dmv3d_batch(0, 0, 2, 32, rays=96, points=64)
    tokens = torch.tensor([Vocabulary().encode(text).tokens for text in batch.captions])
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    values = []
    for _ in range(100):
        generator = torch.Generator().manual_seed(0)
        loss = dmv3d.total(dmv3d.losses(network, batch, log_snr(torch.tensor([0.4, 0.9])), tokens, generator, "cpu"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.5 * values[0]


def test_the_reconstructors_loss_falls_on_one_batch() -> None:
    torch.manual_seed(0)
    network = Lgm(SMALL_LGM)
    batch = lgm_batch(0, 0, 1, 32, SMALL_LGM.stride)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    values = []
    for _ in range(40):
        terms, rendered = lgm.losses(network, batch, "cpu")
        loss = lgm.total(terms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert rendered.shape == batch.wanted.shape
    assert values[-1] < 0.6 * values[0]


def test_examples_are_the_same_every_time_and_differ_from_each_other() -> None:
    one, same = dmv3d_batch(0, 8, 2, 32), dmv3d_batch(0, 8, 2, 32)
    assert torch.equal(one.rgba, same.rgba)
    assert torch.equal(one.supervision.rgba, same.supervision.rgba)
    assert not torch.equal(one.rgba[0], one.rgba[1])
    assert torch.equal(lgm_batch(0, 4, 1, 32, 2).given, lgm_batch(0, 4, 1, 32, 2).given)


def test_pictured_examples_are_framed_as_a_prepared_picture_is() -> None:
    batch = dmv3d_batch(0, 0, 12, 64, pictured_share=1.0)
    assert batch.clean_first.all()
    off_centre, fractions = [], []
    for alpha in batch.pictured[:, 3]:
        where = (alpha > 0.5).nonzero().float()
        low, high = where.amin(0), where.amax(0) + 1
        fractions.append(float((high - low).max()) / 64)
        off_centre.append(float(((low + high) / 2 - 32).abs().max()))
    assert max(off_centre) < 4
    assert min(fractions) > 0.5
    assert max(fractions) < 0.8


def test_imagined_scenes_are_true_to_themselves() -> None:
    torch.manual_seed(0)
    config = Dmv3dConfig(
        vocabulary=len(TOKENS), image_size=32, width=48, heads=3, encoder_blocks=1, decoder_blocks=1, plane_tokens=4
    )
    network = Dmv3d(config)
    with torch.no_grad():
        network.field[-1].bias[0] = 1.0  # type: ignore[index, union-attr]  # an untrained field is empty
    batch, again = (imagined_batch(Dmv3dGenerator(network, Vocabulary()), 0, 4, 2, 32, 2) for _ in range(2))
    assert torch.equal(batch.given, again.given)
    assert batch.given.shape == (2, 4, 4, 32, 32)
    assert batch.wanted.shape == (2, 3, 4, 32, 32)
    assert batch.given[:, :, 3].amax() > 0.5
    for pictures, cameras, wanted, views in zip(
        batch.given, batch.cameras, batch.wanted, batch.wanted_cameras, strict=True
    ):
        seen = [torch.equal(pose, views.camera_to_world[0]) for pose in cameras.camera_to_world].index(True)
        assert torch.equal(pictures[seen], wanted[0])
        assert not torch.allclose(pictures[seen], wanted[1], atol=0.01)
    assert batch.distance.abs().max() == 0
    terms, _ = lgm.losses(Lgm(SMALL_LGM), batch, "cpu")
    assert terms["distance"] == 0
    assert terms["color"] > 0
