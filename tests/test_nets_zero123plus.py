"""Zero123++: the released code's numbers from picture to picture, and the published layout."""

from __future__ import annotations

import pytest
import torch
from ruled_weights import published_layout
from torch import Tensor
from zero123plus_cases import TILE, component, file_key, ruled_component, ruled_model, stored

from backend.nets.reference_attention import ReferenceUnet
from backend.nets.zero123plus import Zero123Plus, cut_grid, encode_empty_prompt
from backend.nets.zero123plus_config import COMPONENTS

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def values() -> dict[str, Tensor]:
    return stored()


@pytest.fixture(scope="module")
def model() -> Zero123Plus:
    return ruled_model()


def close(mine: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> bool:
    assert mine.shape == theirs.shape
    return float((mine - theirs).abs().max()) < tolerance


class Stored:
    """Draws the released run's noise, in its order."""

    def __init__(self, values: dict[str, Tensor], steps: int) -> None:
        names = ["noise.vae_cond", "noise.vae_neg", "noise.init"]
        for step in range(steps):
            names += [f"noise.cond_step{step}", f"noise.ancestral_step{step}"]
        self.left = [values[name] for name in names]

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        noise = self.left.pop(0)
        assert noise.shape == torch.Size(shape)
        return noise


@torch.no_grad()
def test_the_conditions_are_the_released_codes(model: Zero123Plus, values: dict[str, Tensor]) -> None:
    assert close(encode_empty_prompt(ruled_component("text_encoder")), values["text.empty_prompt_embeds"])
    assert close(model.vision_encoder(values["clip.pixel_values"]).image_embeds, values["clip.image_embeds"])
    assert close(model.states(values["clip.pixel_values"]), values["unet.step0.encoder_hidden_states"])
    for name, pixels in (("cond", values["vae.cond.pixel_values"]), ("neg", torch.zeros(1, 3, 64, 64))):
        spread = model.vae.encode(pixels).latent_dist
        assert close(spread.mean, values[f"vae.{name}.mean"])
        assert close(spread.std, values[f"vae.{name}.std"])
    noise = Stored(values, 0)
    latents = [model.encode(values["vae.cond.pixel_values"], noise), model.encode(torch.zeros(1, 3, 64, 64), noise)]
    assert close(torch.cat(latents[::-1]), values["cond_lat"])


@torch.no_grad()
def test_one_evaluation_is_the_released_codes(model: Zero123Plus, values: dict[str, Tensor]) -> None:
    sigma = values["sched.sigmas3"][0]
    noisy = (values["noise.init"] * sigma / (sigma**2 + 1).sqrt()).expand(2, -1, -1, -1)
    reference, states = values["unet.step0.noisy_cond_lat"], values["unet.step0.encoder_hidden_states"]
    time = values["unet.step0.timestep"][0]
    assert close(model.denoise(noisy, reference, time, states), values["unet.step0.out"])
    # And the reference matters, nothing of it stays for the next call.
    assert len(model.denoise.processors) == 16
    assert all(processor.kept is None and not processor.keep for processor in model.denoise.processors)
    plain = model.unet(noisy, time, encoder_hidden_states=states).sample
    assert float((plain - values["unet.step0.out"]).abs().max()) > 0.05


@torch.no_grad()
def test_the_sampling_is_the_released_codes(model: Zero123Plus, values: dict[str, Tensor]) -> None:
    """From the encoders' pixels to the grid, with the released run's noise; x is what the guesses lead to."""
    sigmas, times = values["sched.sigmas3"], values["sched.timesteps3"]
    noise = Stored(values, 3)
    condition = model.condition(values["vae.cond.pixel_values"], values["clip.pixel_values"], noise)
    assert close(condition.reference, values["cond_lat"])
    walk = model.sample(condition, sigmas, times, 4.0, noise)
    noisy = values["noise.init"] * sigmas[0]
    while True:
        try:
            clean = (next(walk) - 0.22) * 0.75
        except StopIteration as end:
            latents = end.value
            break
        step = len(times) - 1 - len(noise.left) // 2
        sigma, following = sigmas[step], sigmas[step + 1]
        up = (following**2 * (sigma**2 - following**2) / sigma**2).sqrt()
        down = (following**2 - up**2).sqrt()
        noisy = clean + (noisy - clean) * down / sigma + up * values[f"noise.ancestral_step{step}"]
        assert close(noisy, values[f"trace.x{step + 1}"]), step
        noisy = values[f"trace.x{step + 1}"]
    assert not noise.left
    assert close(latents, values["final.latent_unscaled"])
    grid = model.decode_grid(latents)
    assert close(grid, values["final.image_pm1"])
    views = model.decode(latents)
    assert views.shape == (6, 3, TILE, TILE)
    assert torch.equal(views[3], (grid[0, :, TILE : 2 * TILE, TILE:] / 2 + 0.5).clamp(0, 1))


def test_tiles_go_row_by_row() -> None:
    grid = torch.arange(6.0).reshape(1, 3, 2).repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert cut_grid(grid)[:, 0].flatten(1).unique(dim=1).flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_a_failing_pass_leaves_no_reference_behind(model: Zero123Plus) -> None:
    denoise: ReferenceUnet = model.denoise
    with pytest.raises(RuntimeError), torch.no_grad():
        denoise(torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8), torch.tensor(1.0), torch.zeros(2, 7, 3))
    assert all(processor.kept is None and not processor.keep for processor in denoise.processors)


def test_the_full_size_takes_the_published_sizes_of_latents() -> None:
    with torch.device("meta"), torch.no_grad():
        unet = ReferenceUnet(component("unet", COMPONENTS))
        reference, states = torch.empty(2, 4, 64, 64), torch.empty(2, 77, 1024)
        assert unet(torch.empty(2, 4, 120, 80), reference, torch.tensor(999.0), states).shape == (2, 4, 120, 80)


def test_the_full_size_has_exactly_the_published_keys_and_shapes() -> None:
    mine = {}
    with torch.device("meta"):
        for name in COMPONENTS:
            state = component(name, COMPONENTS).state_dict()
            mine |= {file_key(name, key): tuple(value.shape) for key, value in state.items()}
    assert mine == {key: shape for key, (shape, _) in published_layout("zero123plus").items()}
