"""The multi-view U-Net against values that the released MVDream and ImageDream gave, and its published names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from multiview_cases import TOLERANCE, VARIANTS, inputs, small_config, small_network, stored
from torch import Tensor

from backend.errors import MissingWeights
from backend.nets import multiview_attention
from backend.nets.multiview_unet import MultiViewUNet, config_of

# Tensors, parameters, and SHA-256 over "key shape" lines, sorted by key, of the released code's state dicts.
PUBLISHED = {
    "mvdream": (0, 690, 867_572_164, "a6c61eec10ee2d7b002b3fbbe1d5aedaa2ddcad39aea145a41ceccd9d14ab63d"),
    "imagedream": (16, 773, 941_672_900, "9bec320d31e5472cd6656b551dcd603969c870ca638e390e8bbf2eb3ca8736f4"),
}


# Not ImageDream's with channels last: its unconditional picture is empty, and a norm over one empty channel, which only
# so small a network has, is as coarse in that layout as torch's own kernel is.
@pytest.mark.parametrize(
    ("variant", "layout"),
    [*((variant, torch.contiguous_format) for variant in VARIANTS), ("mvdream", torch.channels_last)],
)
def test_it_computes_what_the_released_code_does(variant: str, layout: torch.memory_format) -> None:
    expected, views = stored(), VARIANTS[variant]
    network = small_network(variant)
    names = [key.split(".act.")[1][:-4] for key in expected if key.startswith(f"{variant}.act.") and key[-3:] == "val"]
    seen: dict[str, Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda module, given, result, name=name: seen.update({name: result.clone()})
        )
        for name in names
    ]
    given = inputs(variant)
    for name, key in (("latents", "x"), ("words", "context"), ("picture", "ip"), ("picture_latent", "ip_img")):
        if name in given:
            row = given[name][-1 if name.startswith("picture") else 0]
            assert torch.equal(row.flatten()[:64], expected[f"{variant}.{key}.val64"])
    with torch.inference_mode():
        out = network.to(memory_format=layout)(**given)
    for hook in hooks:
        hook.remove()
    network.to(memory_format=torch.contiguous_format)

    assert (out.flatten(0, 1) - expected[f"{variant}.out"]).abs().max() < TOLERANCE
    assert (statistics(out) - expected[f"{variant}.out.stats"]).abs().max() < TOLERANCE
    assert len(seen) == len(names) == (28 if variant == "mvdream" else 29)
    for name, value in seen.items():
        if len(value) == 2 and value.ndim < 4:  # the reference makes these again for every view
            value = value.repeat_interleave(views, 0) if name != "camera_embed" else value.flatten(0, 1)
        places = expected[f"{variant}.act.{name}.idx"].long()
        assert (value.flatten()[places] - expected[f"{variant}.act.{name}.val"]).abs().max() < TOLERANCE, name
        assert (statistics(value) - expected[f"{variant}.act.{name}.stats"]).abs().max() < TOLERANCE, name


def statistics(value: Tensor) -> Tensor:
    x = value.double()
    return torch.stack([x.mean(), x.std(correction=0), x.min(), x.max(), x.abs().mean()])


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_shapes_are_the_released_ones(variant: str) -> None:
    picture_tokens, tensors, parameters, digest = PUBLISHED[variant]
    with torch.device("meta"):
        network = MultiViewUNet(ip_dim=picture_tokens)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    lines = "\n".join(f"{key} {list(shape)}" for key, shape in sorted(shapes.items()))
    assert (len(shapes), sum(value.numel() for value in network.parameters())) == (tensors, parameters)
    assert hashlib.sha256(lines.encode()).hexdigest() == digest
    told = config_of(shapes)
    assert {key: network.config[key] for key in told} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in told.items()
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_sizes_are_read_from_shapes(variant: str) -> None:
    config = small_config(variant)
    shapes = {key: tuple(value.shape) for key, value in small_network(variant).state_dict().items()}
    told = config_of(shapes, config)
    assert {key: told[key] for key in config} == config
    assert config_of(shapes, {"image_size": "large"})["image_size"] == 32


def test_other_weights_are_told_apart() -> None:
    with pytest.raises(MissingWeights, match=r"input_blocks\.0\.0\.weight"):
        config_of({"encoder.weight": (3, 3)})
    with pytest.raises(MissingWeights, match=r"out\.2\.weight"):
        config_of({"input_blocks.0.0.weight": (32, 4, 3, 3)})


def test_it_is_saved_and_loaded_as_diffusers_does(tmp_path: Path) -> None:
    network = small_network("imagedream")
    network.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    again = MultiViewUNet.from_pretrained(tmp_path)
    given = inputs("imagedream")
    with torch.inference_mode():
        assert torch.equal(again(**given), network(**given))


def test_attention_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network, given = small_network("mvdream"), inputs("mvdream")
    calls = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def counted(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        calls.append(query.shape[2] * key.shape[2] * query.shape[0] * query.shape[1])
        return plain(query, key, value)

    monkeypatch.setattr(multiview_attention.F, "scaled_dot_product_attention", counted)
    with torch.inference_mode():
        whole = network(**given)
        once, most = len(calls), max(calls)
        calls.clear()
        monkeypatch.setattr(multiview_attention, "MOST_SCORES", most // 5)
        parts = network(**given)
    assert len(calls) > once
    assert max(calls) <= most // 5
    assert (parts - whole).abs().max() < 1e-5


def test_views_see_one_another_but_objects_do_not() -> None:
    network, given = small_network("mvdream"), inputs("mvdream")
    other = given["latents"].clone()
    other[0, 1] += 1.0
    with torch.inference_mode():
        moved = (network(**{**given, "latents": other}) - network(**given)).abs().amax((2, 3, 4))
    assert (moved[0] > 1e-3).all()
    assert (moved[1] < 1e-5).all()


def test_the_picture_takes_the_last_views_place() -> None:
    """Without its latents being touched, and whatever noise stood there."""
    network, given = small_network("imagedream"), inputs("imagedream")
    before = given["latents"].clone()
    other = given["latents"].clone()
    other[:, -1] = 7.0
    with torch.inference_mode():
        assert torch.equal(network(**{**given, "latents": other}), network(**given))
        picture = {"picture_latent": given["picture_latent"] + 1.0}
        assert (network(**{**given, **picture}) - network(**given))[:, 0].abs().max() > 1e-3
    assert torch.equal(given["latents"], before)


def test_half_precision_stays_close() -> None:
    torch.manual_seed(0)
    network = MultiViewUNet(
        model_channels=32,
        channel_mult=(1, 2),
        attention_resolutions=(2, 1),
        num_head_channels=16,
        context_dim=32,
        ip_dim=4,
    )
    given = {
        "latents": torch.randn(1, 3, 4, 8, 8),
        "timestep": torch.tensor([501]),
        "words": torch.randn(1, 5, 32),
        "camera": torch.randn(3, 16),
        "picture": torch.randn(1, 9, 1280),
        "picture_latent": torch.randn(1, 4, 8, 8),
    }
    with torch.inference_mode():
        plain = network(**given)
        halved = network.half().to(memory_format=torch.channels_last)(**given)
    assert halved.dtype == torch.float16
    assert 0 < (halved - plain).abs().max() < 0.01 * plain.abs().max()
