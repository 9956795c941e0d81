"""GRM's network: the released code's numbers, the published layout, and what it refuses."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from grm_cases import CASES, LENS, images, ruled_network, stored
from torch import Tensor, nn
from torch.nn import functional as F

from backend.errors import BadInput, MissingWeights
from backend.nets.grm import CHANNELS, Grm, gaussian_maps, halved, latent_of, ray_map, unproject
from backend.nets.grm_config import PAPER, GrmConfig, config_of
from backend.nets.grm_transformer import Block, JointShuffle

TOLERANCE = 1e-4


def results(case: str) -> dict[str, Tensor]:
    """Every number that the released code's run of a case left, as this network computes it."""
    network, config = ruled_network(case), CASES[case]
    values = stored(case)[0]
    found = {name: values[name] for name in ("input.c2w", "input.fxfycxcy")}
    poses, lenses, pictures = found["input.c2w"], found["input.fxfycxcy"], images(case)

    def keep(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, __, output: found.__setitem__(name, output.clone()))

    encoder = network.visual_encoder.transformer_encoder
    keep("patch_conv", encoder.conv)
    keep("after_layernorm1", encoder.layernorm1)
    keep("encoder_out", encoder.layernorm2)
    for index, block in enumerate(encoder.transformer.resblocks):
        keep(f"encoder_block_{index}", block)
    upsampler = network.visual_encoder.gaussian_upsampler
    keep("upsampler_out", upsampler.layernorm2)
    for stage in range(config.decoder_ratio):
        keep(f"upsampler_{stage}_shuffle", upsampler.get_submodule(f"upsampler_{stage}"))
        for index in range(2):
            keep(f"upsampler_{stage}_block_{index}", upsampler.get_submodule(f"attention_{stage}.resblocks.{index}"))
    with torch.no_grad():
        raw = network(pictures, poses, lenses)
        if config.half_res_input:
            pictures = found["half_res_images"] = halved(pictures)
        found["plucker"] = ray_map(poses, lenses, *pictures.shape[-2:])
        latent = latent_of(config, raw, poses)
        maps = gaussian_maps(config, raw, poses, lenses)
    for name, part in zip(CHANNELS, raw.split(list(CHANNELS.values()), -1), strict=True):
        found[f"head_raw_{name}"] = part
        found[f"head_conv_{name}"] = F.pixel_unshuffle(part[0].permute(0, 3, 1, 2), config.shuffle)
    found |= {f"latent_{name}": value for name, value in latent._asdict().items()}
    found["latent_xyz"] = found["gaussian_means"] = maps.means
    found["gaussian_scales"], found["gaussian_rotations"] = maps.scales, maps.quats
    found["gaussian_opacity"], found["gaussian_rgb"] = maps.opacities, maps.colors
    inside = maps.means.abs().amax(-1) < 1
    found["inside_unit_box_count"] = inside.sum()
    found["opacity_above_0p05_inside_count"] = (inside & (maps.opacities > 0.05)).sum()
    return found


@pytest.mark.parametrize("case", ["A", "B"])
def test_every_number_is_the_released_codes(case: str) -> None:
    values, shapes = stored(case)
    found = results(case)
    assert set(found) == set(shapes)
    for name, shape in shapes.items():
        mine = found[name]
        assert mine.numel() == torch.Size(shape).numel(), name
        mine = mine.flatten()
        if f"{name}.val" in values:
            assert (mine[values[f"{name}.idx"].long()] - values[f"{name}.val"]).abs().max() < TOLERANCE, name
        else:
            assert (mine - values[name].flatten()).abs().max() < TOLERANCE, name
        if f"{name}.stats" in values:
            stats = torch.stack([mine.double().mean(), mine.double().std(correction=0), mine.double().abs().max()])
            assert (stats - values[f"{name}.stats"]).abs().max() < TOLERANCE, name


def test_one_view_without_an_upsampler() -> None:
    network, config = ruled_network("C"), CASES["C"]
    poses, lenses = stored("A")[0]["input.c2w"][:, :1], torch.tensor([[LENS]])
    with torch.no_grad():
        raw = network(images("C", 1), poses, lenses)
        latent, maps = latent_of(config, raw, poses), gaussian_maps(config, raw, poses, lenses)
    assert raw.shape == (1, 1, 32, 32, 12)
    assert latent.scaling.max() == 0.5
    assert latent.scaling.min() < 0
    assert torch.allclose(maps.scales, 0.1 * torch.log1p(latent.scaling.exp()), atol=1e-7)
    assert torch.allclose(maps.quats.norm(dim=-1), torch.ones(1, 1, 32, 32))


def published_shapes(layers: int, width: int, patch: int, side: int, stages: list[int], shuffle: int) -> dict:
    """Keys and shapes as published, by rule."""

    def block(prefix: str, w: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {
            "attn.in_proj_weight": (3 * w, w), "attn.in_proj_bias": (3 * w,),
            "attn.out_proj.weight": (w, w), "attn.out_proj.bias": (w,),
            "mlp.c_fc.weight": (4 * w, w), "mlp.c_fc.bias": (4 * w,),
            "mlp.c_proj.weight": (w, 4 * w), "mlp.c_proj.bias": (w,),
        }  # fmt: skip
        return {
            f"{prefix}.{key}": shape for key, shape in (shapes | norm("layernorm1", w) | norm("layernorm2", w)).items()
        }

    def norm(prefix: str, w: int) -> dict[str, tuple[int, ...]]:
        return {f"{prefix}.weight": (w,), f"{prefix}.bias": (w,)}

    encoder, upsampler = "transformer_encoder", "gaussian_upsampler"
    shapes = {f"{encoder}.conv.weight": (width, 9, patch, patch)}
    shapes |= {f"{encoder}.positional_embedding": (1, side * side, width)}
    shapes |= norm(f"{encoder}.layernorm1", width) | norm(f"{encoder}.layernorm2", width)
    for layer in range(layers):
        shapes |= block(f"{encoder}.transformer.resblocks.{layer}", width)
    last = width
    for stage, w in enumerate(stages):
        shapes |= {f"{upsampler}.upsampler_{stage}.residual_fc.weight": (4 * w, last)}
        shapes |= {f"{upsampler}.upsampler_{stage}.residual_fc.bias": (4 * w,)}
        for layer in range(2):
            shapes |= block(f"{upsampler}.attention_{stage}.resblocks.{layer}", w)
        last = w
    shapes |= norm(f"{upsampler}.layernorm2", last) if stages else {}
    for name, channels in (("depth", 1), ("feature", 3), ("opacity", 1), ("scaling", 3), ("rotation", 4)):
        shapes |= {f"out_layer_{name}.weight": (channels * shuffle**2, last, 1, 1)}
    return {f"visual_encoder.{key}": shape for key, shape in shapes.items()}


def on_meta(config: GrmConfig) -> Grm:
    with torch.device("meta"):
        return Grm(config)


@pytest.mark.parametrize(
    ("config", "rule", "parameters", "digest"),
    [
        (PAPER, (24, 768, 16, 32, [384, 192, 64, 64], 1), 178_850_304, "8b59d20844e07980"),
        (replace(PAPER, decoder_ratio=3), (24, 768, 16, 32, [384, 192, 64], 2), 178_736_000, "c179cdd072356d90"),
        (CASES["A"], (3, 256, 8, 8, [128, 64], 2), 3_198_464, "c47de518160cc79a"),
        (CASES["B"], (2, 128, 8, 4, [64, 64, 64], 2), 842_240, "34150240c25d3357"),
        (CASES["C"], (1, 128, 8, 4, [], 8), 372_864, "28f1e62903a5186c"),
    ],
)
def test_keys_and_shapes_are_the_published_ones(config: GrmConfig, rule: tuple, parameters: int, digest: str) -> None:
    state = on_meta(config).state_dict()
    expected = published_shapes(*rule)
    assert {key: tuple(value.shape) for key, value in state.items()} == expected
    assert sum(value.numel() for value in state.values()) == parameters
    # Of the list of keys and shapes that the released code itself gave.
    lines = sorted(f"{key} {list(shape)}" for key, shape in expected.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest().startswith(digest)


def hints_of(config: GrmConfig) -> dict:
    """What a checkpoint's own config says, sizes left to the tensors."""
    visual = ("window_size", "bwindow_size", "scaling_activation_type", "scale_offset", "scale_max")
    render = {"scale_min_act": config.scale_min_act, "scale_max_act": config.scale_max_act,
              "scale_multi_act": config.scale_multi_act, "scaling_activation_type": config.render_activation_type,
              "render_type": "defered", "sh_degree": 0}  # fmt: skip
    return {"visual": {"params": {key: getattr(config, key) for key in visual}}, "render": {"params": render}}


@pytest.mark.parametrize(
    "config",
    [
        PAPER,
        replace(PAPER, decoder_ratio=3, layers=12, width=1024, window_size=1024),
        replace(PAPER, input_res=256, patch_size=8, decoder_ratio=3, half_res_input=True, bwindow_size=64),
        replace(PAPER, half_res_input=True, patch_size=8, decoder_ratio=4, window_size=None),
        replace(PAPER, decoder_ratio=0, in_channels=4, layers=1),
        *CASES.values(),
    ],
)
def test_the_config_is_read_from_shapes(config: GrmConfig) -> None:
    state = on_meta(config).state_dict()
    hints = hints_of(config)
    assert config_of(state, hints) == config
    hints["visual"]["params"] |= {
        key: value for key, value in config.to_dict().items() if key not in hints["render"]["params"]
    }
    assert config_of(state, hints) == config
    assert GrmConfig.from_dict(config.to_dict()) == config


def test_absent_settings_are_the_released_codes_defaults() -> None:
    state = on_meta(CASES["A"]).state_dict()
    config = config_of(state, {"visual": {"params": {}}, "render": {"params": {"scale_multi_act": 7.0}}})
    assert (config.window_size, config.bwindow_size) == (None, None)
    assert (config.scaling_activation_type, config.render_activation_type) == ("sigmoid", "exp")
    assert (config.scale_min_act, config.scale_max_act, config.scale_multi_act) == (1.0, 1.0, 0.1)


def test_weights_that_contradict_their_config_are_refused() -> None:
    state = on_meta(CASES["A"]).state_dict()
    hints = hints_of(CASES["A"])
    with pytest.raises(MissingWeights, match="without their config"):
        config_of(state, None)
    with pytest.raises(MissingWeights, match="layers is 4"):
        config_of(state, hints | {"visual": {"params": {"layers": 4}}})
    with pytest.raises(MissingWeights, match="do not fit each other"):
        config_of({k: v for k, v in state.items() if "upsampler_1" not in k}, hints)
    with pytest.raises(MissingWeights, match="not GRM's weights"):
        config_of({"conv_in.weight": torch.zeros(3)}, hints)
    with pytest.raises(BadInput, match="tanh"):
        config_of(state, hints | {"render": {"params": {"scaling_activation_type": "tanh"}}})
    with pytest.raises(BadInput, match="even"):
        config_of(state, hints | {"visual": {"params": {"window_size": 15}}})


def test_views_have_to_make_a_square() -> None:
    assert [views for views in range(1, 26) if PAPER.takes(views)] == [1, 4, 9, 16, 25]
    assert [PAPER.usable_views(views) for views in (1, 3, 4, 8, 21)] == [1, 1, 4, 4, 16]
    assert CASES["C"].usable_views(7) == 7
    wide = replace(PAPER, window_size=16384)
    assert [views for views in range(1, 17) if wide.takes(views)] == [4, 16]
    with pytest.raises(BadInput, match="cannot use 3 views"):
        wide.usable_views(3)
    network = ruled_network("A")
    poses, lenses = torch.eye(4).expand(1, 3, 4, 4), torch.tensor(LENS).expand(1, 3, 4)
    with pytest.raises(BadInput, match="square"):
        network(torch.zeros(1, 3, 3, 64, 64), poses, lenses)
    with pytest.raises(BadInput, match="64 pixels"):
        network(torch.zeros(1, 4, 3, 32, 32), torch.eye(4).expand(1, 4, 4, 4), torch.tensor(LENS).expand(1, 4, 4))


@pytest.mark.parametrize("shifted", [False, True])
def test_windows_in_parts_are_the_windows_of_the_whole(shifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = Block(64, 8, shifted)
    x = torch.randn(2, 40, 64)
    rolled = x.roll(4, 1) if shifted else x
    alone = Block(64, None, False)
    alone.load_state_dict(block.state_dict())
    with torch.no_grad():
        whole = alone(rolled.reshape(10, 8, 64)).view(2, 40, 64)
        expected = whole.roll(-4, 1) if shifted else whole
        for chunk in (1, 3 * 8 * 64 * 2, 2**20):
            monkeypatch.setattr("backend.nets.grm_transformer.CHUNK", chunk)
            assert torch.allclose(block(x), expected, atol=1e-6)
        shuffle = JointShuffle(64, 32)
        x = torch.randn(2, 36, 64)
        rows = shuffle.residual_fc(x).transpose(1, 2).reshape(2, 128, 6, 6)
        for chunk in (1, 5 * 6 * 64 * 2, 2**20):
            monkeypatch.setattr("backend.nets.grm_transformer.CHUNK", chunk)
            assert torch.allclose(shuffle(x), F.pixel_shuffle(rows, 2).flatten(2).transpose(1, 2), atol=1e-6)


def test_positions_are_float32_in_any_precision() -> None:
    config = GrmConfig(input_res=16, patch_size=8, layers=1, width=64, decoder_ratio=1, window_size=4)
    network = Grm(config).to(torch.bfloat16)
    poses, lenses = torch.eye(4).repeat(1, 4, 1, 1), torch.tensor(LENS).expand(1, 4, 4)
    poses[..., 2, 3] = -2.7
    with torch.no_grad():
        raw = network(torch.zeros(1, 4, 3, 16, 16), poses, lenses)
        with torch.autocast("cpu", torch.bfloat16):
            maps = gaussian_maps(config, raw, poses, lenses)
    assert raw.dtype == maps.means.dtype == torch.float32
    depth = (raw[..., 0].double() + 2.7).float()
    assert torch.allclose(maps.means, unproject(depth, poses, lenses), atol=1e-6)
    assert torch.allclose(maps.means[..., 2], depth - 2.7, atol=1e-6)
