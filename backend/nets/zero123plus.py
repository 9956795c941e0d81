"""Zero123++ (arXiv 2310.15110): one picture to six views of the object, denoised as one grid.

The networks are a Stable Diffusion 2's, from diffusers and transformers. What is this model's own: the reference
attention, the picture's CLIP embedding added to the empty prompt by a ramp of 77 numbers, its ranges of pictures and
latents, and a linear noise schedule. Where paper and released code differ, this is the code, as its weights are.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backend.nets.reference_attention import ReferenceUnet

ROWS, COLUMNS = 3, 2
TILE = 320  # pixels of a view's side
LATENT_PIXELS = 8  # pixels of a latent's side
Draw = Callable[..., Tensor]  # shape to standard normal numbers


@dataclass(frozen=True)
class Condition:
    """What the denoising sees of a picture, without and with it: reference [2, 4, h, w], states [2, 77, C]."""

    reference: Tensor
    states: Tensor


def encode_empty_prompt(text_encoder: nn.Module) -> Tensor:
    """[1, 77, C]: the state of the empty prompt, the only one there is. The tower is not needed after this."""
    config: Any = text_encoder.config
    # Begin, end, and "!" for all the rest, as Stable Diffusion 2's tokenizer pads.
    begin, end = config.vocab_size - 2, config.vocab_size - 1
    tokens = torch.zeros(1, config.max_position_embeddings, dtype=torch.long)
    tokens[0, :2] = torch.tensor([begin, end])
    device = next(text_encoder.parameters()).device
    return text_encoder(input_ids=tokens.to(device), attention_mask=None)[0]


def scale_latents(latents: Tensor) -> Tensor:
    """Latents as Stable Diffusion has them, to what the U-Net denoises."""
    return (latents - 0.22) * 0.75


def unscale_latents(latents: Tensor) -> Tensor:
    """The inverse of `scale_latents`."""
    return latents / 0.75 + 0.22


class Zero123Plus(nn.Module):
    """The networks together. unet: UNet2DConditionModel; vae: AutoencoderKL; vision_encoder: CLIP's, with projection;
    empty_prompt [1, 77, C]; ramp: 77 numbers, see `states`; tile: pixels of a view's side."""

    empty_prompt: Tensor
    ramp: Tensor

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        vision_encoder: nn.Module,
        empty_prompt: Tensor,
        ramp: Tensor,
        tile: int = TILE,
    ) -> None:
        super().__init__()
        self.unet: Any = unet
        self.vae: Any = vae
        self.vision_encoder: Any = vision_encoder
        self.denoise = ReferenceUnet(unet)
        self.register_buffer("empty_prompt", empty_prompt.float(), persistent=False)
        self.register_buffer("ramp", ramp.float(), persistent=False)
        self.tile = tile

    def states(self, clip_pixels: Tensor) -> Tensor:
        """[2, 77, C]: the empty prompt, and it with the picture's embedding added to each token by the ramp."""
        embedding = self.vision_encoder(clip_pixels.to(self.vision_encoder.dtype)).image_embeds.float()
        empty, ramp = self.empty_prompt.to(embedding), self.ramp.to(embedding)
        return torch.cat([empty, empty + embedding[:, None] * ramp[:, None]])

    def encode(self, pixels: Tensor, draw: Draw) -> Tensor:
        """A latent of a picture, drawn from what the encoder says of it. It is not scaled by the VAE's factor: the
        paper's "reference latent scaled by 5" is this."""
        spread = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        mean, std = spread.mean.float(), spread.std.float()
        return mean + std * draw(mean.shape).to(mean)

    def condition(self, vae_pixels: Tensor, clip_pixels: Tensor, draw: Draw) -> Condition:
        """Of one picture as the two encoders want it: [1, 3, S, S], normalised, over the background that the weights
        know."""
        with_picture = self.encode(vae_pixels, draw)
        without = self.encode(torch.zeros_like(vae_pixels), draw)  # mid grey
        return Condition(torch.cat([without, with_picture]), self.states(clip_pixels))

    def sample(
        self, condition: Condition, sigmas: Tensor, times: Tensor, guidance: float, draw: Draw
    ) -> Generator[Tensor, None, Tensor]:
        """Ancestral Euler steps; yields the clean latent [1, 4, h, w] as guessed at each, and returns the last.

        sigmas [steps + 1] falls to 0; times [steps]: what the U-Net is told. Latents are the VAE's times its factor.
        """
        height, width = (count * self.tile // LATENT_PIXELS for count in (ROWS, COLUMNS))
        reference, dtype = condition.reference, self.unet.dtype
        channels = reference.shape[1]
        states = condition.states.to(dtype)
        noisy = draw((1, channels, height, width)).to(reference) * sigmas.max().to(reference)
        for sigma, following, time in zip(sigmas.tolist(), sigmas.tolist()[1:], times, strict=False):
            shrink = (sigma**2 + 1) ** -0.5
            fresh = (reference + sigma * draw(reference.shape).to(reference)) * shrink
            twice = (noisy * shrink).expand(2, -1, -1, -1)
            without, with_picture = self.denoise(
                twice.to(dtype), fresh.to(dtype), time.to(reference.device), states
            ).float()
            velocity = without + guidance * (with_picture - without)
            clean = noisy * shrink**2 - velocity[None] * sigma * shrink
            # Down to less noise than wanted, and fresh noise up to it.
            up = (following**2 * (sigma**2 - following**2) / sigma**2) ** 0.5
            down = (following**2 - up**2) ** 0.5
            noisy = noisy + (noisy - clean) / sigma * (down - sigma) + up * draw(noisy.shape).to(noisy)
            yield unscale_latents(clean)
        return unscale_latents(noisy)

    def decode(self, latents: Tensor) -> Tensor:
        """[6, 3, tile, tile] in [0, 1], row by row, of latents [1, 4, h, w]."""
        grid = self.decode_grid(latents)[0] / 2 + 0.5
        return cut_grid(grid.clamp(0, 1))

    def decode_grid(self, latents: Tensor) -> Tensor:
        """[1, 3, H, W] around [-1, 1]: the grid in the range of usual pictures, which training shrank."""
        decoded = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype), return_dict=False)[0]
        return decoded.float() * (0.8 / 0.5)


def cut_grid(grid: Tensor) -> Tensor:
    """[6, C, tile, tile] of a grid [C, H, W] of three rows and two columns."""
    channels, height, width = grid.shape
    tiles = grid.reshape(channels, ROWS, height // ROWS, COLUMNS, width // COLUMNS)
    return tiles.permute(1, 3, 0, 2, 4).flatten(0, 1)
