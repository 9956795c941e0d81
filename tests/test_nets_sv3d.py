"""SV3D: the released code's numbers from picture to frames, and the published layout."""

from __future__ import annotations

import math

import pytest
import torch
from ruled_weights import published_layout, seeded
from sv3d_cases import ruled_model, stored
from torch import Tensor, nn

from backend.nets.sv3d import (
    FRAMES,
    Condition,
    Sv3d,
    build,
    clip_pixels,
    conditions_vector,
    guidance_scales,
    noise_levels,
    published_config,
)
from backend.nets.sv3d_layout import UNUSED, places, published_shapes, published_state

LATENTS = (FRAMES, 4, 8, 16)


@pytest.fixture(scope="module")
def values() -> dict[str, Tensor]:
    return stored()


@pytest.fixture(scope="module")
def models() -> dict[str, Sv3d]:
    return {variant: ruled_model(variant) for variant in "pu"}


def close(mine: Tensor, theirs: Tensor) -> bool:
    assert mine.shape == theirs.shape
    return float((mine - theirs).abs().max()) < 1e-4 * max(1.0, float(theirs.abs().max()))


def condition(values: dict[str, Tensor], variant: str) -> Condition:
    context, latent = values["sv3d_p.cond.crossattn"], values["sv3d_p.cond.concat"]
    vector = values[f"sv3d_{variant}.cond.vector"].expand(FRAMES, -1)
    return Condition(context, latent, vector, values["input.image"])


class Given:
    """Draws these numbers, in this order."""

    def __init__(self, *numbers: Tensor) -> None:
        self.left = list(numbers)

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        assert self.left[0].shape == torch.Size(shape)
        return self.left.pop(0)


@torch.no_grad()
def test_the_conditions_are_the_released_codes(models: dict[str, Sv3d], values: dict[str, Tensor]) -> None:
    noise = Given(seeded("input.cond_aug_noise", (1, 3, 64, 128)))
    assert close(values["input.image"] + 1e-5 * noise.left[0], values["input.cond_frames"])
    elevations = [10 + 8 * math.sin(2 * math.pi * frame / FRAMES) for frame in range(FRAMES)]
    azimuths = [360 * (frame + 1) / FRAMES % 360 for frame in range(FRAMES)]
    assert close(torch.tensor(elevations, dtype=torch.double), values["input.elevations_deg"])
    assert close(torch.tensor(azimuths, dtype=torch.double), values["input.azimuths_deg"])
    found = models["p"].condition(values["input.image"], elevations, azimuths, noise)
    assert close(found.context, values["sv3d_p.cond.crossattn"])
    assert close(found.latent, values["sv3d_p.cond.concat"])
    assert close(found.vector, values["sv3d_p.cond.vector"])
    turned = conditions_vector("p", elevations, [angle + 77.0 for angle in azimuths])
    assert close(turned, values["sv3d_p.cond.vector"])  # only the angle from the last frame counts
    assert close(conditions_vector("u", elevations, azimuths)[:1], values["sv3d_u.cond.vector"])
    assert [models[variant].variant for variant in "pu"] == ["p", "u"]


@torch.no_grad()
def test_the_picture_is_made_smaller_as_released(models: dict[str, Sv3d], values: dict[str, Tensor]) -> None:
    y, x = torch.meshgrid(torch.arange(576) / 575, torch.arange(576) / 575, indexing="ij")
    waves = torch.stack([(40 * x + 9 * y).sin(), (90 * x * y).cos(), (60 * y - 25 * x).sin().sign()])
    pixels = clip_pixels(waves[None])
    # Where the sine is as good as 0, its sign hangs on the last bit.
    difference = (pixels[:, :, ::7, ::7] - values["clip576.preprocessed_stride7"]).abs()
    assert float(difference[:, :2].max()) < 1e-4
    assert float((difference > 1e-4).float().mean()) < 0.002
    embedding = models["p"].vision_encoder(pixels).image_embeds
    assert float((embedding - values["clip576.embedding"]).abs().max()) < 2e-3


@torch.no_grad()
@pytest.mark.parametrize("variant", ["p", "u"])
def test_one_evaluation_is_the_released_codes(variant: str, models: dict[str, Sv3d], values: dict[str, Tensor]) -> None:
    given, noisy = condition(values, variant), seeded("input.init_noise", LATENTS)
    unet = models[variant].unet
    seen: dict[str, Tensor] = {}
    wanted = {key: value for key, value in values.items() if key.startswith(f"sv3d_{variant}.stats.")}
    hooks = [
        unet.get_submodule(module).register_forward_hook(
            lambda _, __, output, name=name: seen.__setitem__(name, output[0] if isinstance(output, tuple) else output)
        )
        for name, module in BLOCKS.items()
        if wanted
    ]
    level = torch.tensor(0.25 * math.log(3.7))
    outputs = []
    for shown in (0.0, 1.0):
        latents = torch.cat([noisy, (shown * given.latent).expand(FRAMES, -1, -1, -1)], 1)
        outputs.append(unet(latents[None], level, shown * given.context, given.vector[None])[0])
        if shown == 0.0:
            first, seen = dict(seen), seen
    for hook in hooks:
        hook.remove()
    assert close(outputs[1], values[f"sv3d_{variant}.unet.out_cond"])
    assert close(outputs[0][:3], values[f"sv3d_{variant}.unet.out_uncond_frames_0_2"])
    for name in BLOCKS if wanted else ():
        both = torch.cat([first[name].reshape(-1), seen[name].reshape(-1)]).double()
        told = torch.cat([both.mean()[None], both.std(correction=0)[None], both[:6], both[-3:]]).float()
        assert close(told, values[f"sv3d_p.stats.{name}"]), name


BLOCKS = {
    "input_blocks.0": "conv_in", "input_blocks.3": "down_blocks.0.downsamplers.0",
    "input_blocks.2": "down_blocks.0.attentions.1", "input_blocks.5": "down_blocks.1.attentions.1",
    "input_blocks.8": "down_blocks.2.attentions.1", "input_blocks.11": "down_blocks.3.resnets.1",
    "middle_block": "mid_block", "output_blocks.2": "up_blocks.0", "output_blocks.5": "up_blocks.1",
    "output_blocks.8": "up_blocks.2", "output_blocks.11": "up_blocks.3",
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("variant", ["p", "u"])
def test_the_sampling_is_the_released_codes(variant: str, models: dict[str, Sv3d], values: dict[str, Tensor]) -> None:
    model, sigmas = models[variant], noise_levels(3)
    assert close(sigmas, values["sampler.sigmas3"])
    assert close(noise_levels(50), values["sampler.sigmas50"])
    assert close(guidance_scales(), values["sampler.guider_scale"])
    init = seeded("input.init_noise", LATENTS)
    walk = model.sample(condition(values, variant), sigmas, guidance_scales(), Given(init))
    noisy = init * float(1 + sigmas[0] ** 2) ** 0.5
    for step in range(3):
        clean = next(walk)
        if step == 0 and variant == "p":
            assert close(clean, values["sv3d_p.trace.denoised1"])
        noisy = noisy + (sigmas[step + 1] - sigmas[step]) * (noisy - clean) / sigmas[step]
        if variant == "p" or step == 2:
            assert close(noisy, values[f"sv3d_{variant}.trace.x{step + 1}"]), step
    with pytest.raises(StopIteration) as end:
        next(walk)
    assert close(end.value.value, values[f"sv3d_{variant}.trace.x3"])
    if variant == "p":
        assert close(model.decode(end.value.value[[0, 10]]), values["sv3d_p.decoded.frames_0_10"])


@pytest.mark.parametrize("variant", ["p", "u"])
def test_the_full_size_reads_exactly_the_published_keys_and_shapes(variant: str) -> None:
    published = {key: shape for key, (shape, _) in published_layout("sv3d").items()}
    if variant == "u":
        published["model.diffusion_model.label_emb.0.0.weight"] = (1280, 256)
    with torch.device("meta"):
        networks = build(published_config(variant))
    read = published_shapes(networks)
    assert {key: published.get(key) for key in read} == read
    left = set(published) - set(read)
    assert all(key.startswith(UNUSED) for key in left)
    text = {"positional_embedding", "text_projection", "logit_scale", "token_embedding.weight", "ln_final.weight"}
    clip = "conditioner.embedders.0.open_clip.model."
    assert {key for key in left if key.startswith(clip)} == {clip + name for name in text | {"ln_final.bias"}}
    halves = ("conditioner.embedders.1.encoder.decoder.", "conditioner.embedders.1.encoder.post_quant_conv.")
    assert all(key.startswith((clip, *halves)) for key in left)


def test_the_full_size_takes_the_published_sizes_of_latents() -> None:
    with torch.device("meta"), torch.no_grad():
        unet = build(published_config("p"))["unet"].to("meta")
        given = torch.empty(1, FRAMES, 8, 72, 72), torch.tensor(0.3), torch.empty(1, 1, 1024)
        assert unet(*given, torch.empty(1, FRAMES, 1280)).shape == (1, FRAMES, 4, 72, 72)


def test_each_tensor_is_the_one_that_the_published_names_mean() -> None:
    with torch.device("meta"):
        found = places(build(published_config("p")))
    mine: dict[str, list[str]] = {}
    for (component, name), place in sorted(found.items(), key=lambda item: item[1].third or 0):
        mine.setdefault(place.key, []).append(f"{component}:{name}")
    parts = {"vae_encoder": "vae", "vae_decoder": "vae", "clip": "vision_encoder", "unet": "unet"}
    for key, (_, told) in published_layout("sv3d").items():
        if key in mine:
            component, _, names = told.partition(":")
            assert mine[key] == [f"{parts[component]}:{name}" for name in names.split("|")], key


def test_what_is_stored_is_what_is_read(models: dict[str, Sv3d]) -> None:
    model = models["p"]
    networks: dict[str, nn.Module] = {name: getattr(model, name) for name in ("unet", "vae", "vision_encoder")}
    state = published_state(networks)
    assert {key: tuple(value.shape) for key, value in state.items()} == published_shapes(networks)
    own = {
        (component, name): value for component in networks for name, value in networks[component].state_dict().items()
    }
    assert all(torch.equal(place.take(state[place.key]), own[at]) for at, place in places(networks).items())
