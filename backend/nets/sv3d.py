"""SV3D (arXiv 2403.12008): one picture to a video of 21 frames around the object.

The networks are Stable Video Diffusion's, but for a decoder that knows single pictures only. `sv3d_p` is told the
elevation and the azimuth of every frame; `sv3d_u` knows one ring, at the height of the picture's own camera.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.nn import functional as F

from backend.nets.clip import PICTURE_ENCODER, picture_encoder
from backend.nets.sv3d_unet import Sv3dUnet

FRAMES = 21  # the last one is the picture's own view
SIZE = 576  # pixels of a frame's side
STEPS = 50
SIGMA_MAX, SIGMA_MIN, RHO = 700.0, 0.002, 7.0
GUIDANCE = 2.5  # at the middle frame; 1 at the ends
_NOISE = 1e-5  # added to the picture before it is encoded; the networks are told so
_NUMBER_WIDTH, _ANGLE_WIDTH = 256, 512
_DECODED_AT_ONCE = 3  # frames
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Draw = Callable[..., Tensor]  # shape to standard normal numbers

_VIDEO_UNET: dict[str, Any] = {
    "in_channels": 8, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
    "cross_attention_dim": 1024, "transformer_layers_per_block": 1, "num_attention_heads": (5, 10, 20, 20),
    "num_frames": FRAMES, "addition_time_embed_dim": _NUMBER_WIDTH,
}  # fmt: skip
VAE: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "scaling_factor": 0.18215,
    "block_out_channels": (128, 256, 512, 512), "use_post_quant_conv": False,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
WIDTHS = {"p": _NUMBER_WIDTH + 2 * _ANGLE_WIDTH, "u": _NUMBER_WIDTH}  # of the vector of conditions


def published_config(variant: str) -> dict[str, dict[str, Any]]:
    """The three networks' sizes; variant "p" or "u"."""
    unet = _VIDEO_UNET | {"projection_class_embeddings_input_dim": WIDTHS[variant]}
    return {"unet": unet, "vae": VAE, "vision_encoder": PICTURE_ENCODER}


def build(config: dict[str, dict[str, Any]]) -> dict[str, nn.Module]:
    """The three networks of a config, with random weights."""
    return {
        "unet": Sv3dUnet(**config["unet"]),
        "vae": AutoencoderKL(**config["vae"]),
        "vision_encoder": picture_encoder(config["vision_encoder"]),
    }


def noise_levels(steps: int) -> Tensor:
    """[steps + 1] sigmas from 700 to 0.002, evenly spaced in their seventh roots, and 0 (EDM, arXiv 2206.00364)."""
    ramp = torch.linspace(0, 1, steps)
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return torch.cat([(high + ramp * (low - high)) ** RHO, torch.zeros(1)])


def guidance_scales(guidance: float = GUIDANCE, frames: int = FRAMES) -> Tensor:
    """[frames] the guidance of each: from 1 up to `guidance` at the middle frame, and back."""
    frame = torch.linspace(0, 1, frames)
    return 1 + (guidance - 1) * 2 * (frame - (frame + 0.5).floor()).abs()


def sinusoid(numbers: Tensor, width: int) -> Tensor:
    """[..., width] cosines, then sines."""
    flat = get_timestep_embedding(numbers.flatten().float(), width, flip_sin_to_cos=True, downscale_freq_shift=0)
    return flat.unflatten(0, numbers.shape)


def conditions_vector(variant: str, elevations: Sequence[float], azimuths: Sequence[float]) -> Tensor:
    """[T, D] what the U-Net is told of each frame. Degrees; elevations as they are, azimuths are counted from the last
    frame's, which is the picture's own."""
    noise = sinusoid(torch.full((len(azimuths),), _NOISE), _NUMBER_WIDTH)
    if variant == "u":
        return noise
    polar = torch.tensor([math.radians(90 - elevation) for elevation in elevations])
    azimuth = torch.tensor([math.radians((angle - azimuths[-1]) % 360) for angle in azimuths])
    return torch.cat([noise, sinusoid(polar, _ANGLE_WIDTH), sinusoid(azimuth, _ANGLE_WIDTH)], -1)


def clip_pixels(picture: Tensor, size: int = 224) -> Tensor:
    """[1, 3, size, size] as the picture encoder wants it, of picture [1, 3, H, W] in [-1, 1].

    Blurred as far as it shrinks, then bicubic with the corners in place: the filter of the released code, which the
    usual antialiasing ones differ from.
    """
    for axis, side in ((-2, picture.shape[-2]), (-1, picture.shape[-1])):
        sigma = (side / size - 1) / 2
        if sigma > 0:
            picture = _blurred(picture, axis, sigma)
    picture = F.interpolate(picture, (size, size), mode="bicubic", align_corners=True)
    mean, std = (picture.new_tensor(values)[:, None, None] for values in (_CLIP_MEAN, _CLIP_STD))
    return ((picture + 1) / 2 - mean) / std


def _blurred(picture: Tensor, axis: int, sigma: float) -> Tensor:
    reach = int(max(4 * sigma, 3)) // 2
    offset = torch.arange(-reach, reach + 1, device=picture.device)
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    weights = (kernel / kernel.sum()).to(picture).reshape(1, 1, -1)
    lines = picture.movedim(axis, -1)
    padded = F.pad(lines.flatten(0, -2)[:, None], (reach, reach), mode="reflect")
    return F.conv1d(padded, weights)[:, 0].unflatten(0, lines.shape[:-1]).movedim(-1, axis)


@dataclass(frozen=True)
class Condition:
    """What the denoising sees of a picture. context [1, 1, C]; latent [1, 4, h, w]; vector [T, D]; picture
    [1, 3, H, W] in [-1, 1], the last frame."""

    context: Tensor
    latent: Tensor
    vector: Tensor
    picture: Tensor


class Sv3d(nn.Module):
    """The networks together: Sv3dUnet, AutoencoderKL, and CLIP's picture encoder with projection."""

    def __init__(self, unet: nn.Module, vae: nn.Module, vision_encoder: nn.Module) -> None:
        super().__init__()
        self.unet: Any = unet
        self.vae: Any = vae
        self.vision_encoder: Any = vision_encoder

    @property
    def variant(self) -> str:
        """ "p" where the U-Net knows cameras, else "u"."""
        return "p" if self.unet.config.projection_class_embeddings_input_dim > WIDTHS["u"] else "u"

    def condition(
        self, picture: Tensor, elevations: Sequence[float], azimuths: Sequence[float], draw: Draw
    ) -> Condition:
        """picture [1, 3, H, W] in [-1, 1] on white; the frames' angles in degrees, of which "u" needs only how many."""
        pixels = clip_pixels(picture, self.vision_encoder.config.image_size)
        context = self.vision_encoder(pixels.to(self.vision_encoder.dtype)).image_embeds[:, None].float()
        noisy = picture + _NOISE * draw(picture.shape).to(picture)
        latent = self.vae.encode(noisy.to(self.vae.dtype)).latent_dist.mode().float()  # not scaled by the VAE's factor
        vector = conditions_vector(self.variant, elevations, azimuths).to(latent)
        return Condition(context, latent, vector, picture)

    def denoised(self, noisy: Tensor, sigma: float, condition: Condition, guidance: Tensor) -> Tensor:
        """The clean latents [T, 4, h, w] as guessed from noisy ones."""
        without = self._guess(noisy, sigma, condition, 0.0)
        with_picture = self._guess(noisy, sigma, condition, 1.0)
        return without + guidance[:, None, None, None] * (with_picture - without)

    def _guess(self, noisy: Tensor, sigma: float, condition: Condition, shown: float) -> Tensor:
        """Of one of the two: 21 frames keep any device busy, and both at once would take twice the memory."""
        dtype, shrink = self.unet.dtype, (sigma**2 + 1) ** -0.5
        latents = torch.cat([noisy * shrink, (shown * condition.latent).expand_as(noisy)], 1)
        level = torch.tensor(0.25 * math.log(sigma), device=noisy.device)
        context = shown * condition.context
        output = self.unet(latents[None].to(dtype), level, context.to(dtype), condition.vector[None])[0].float()
        return noisy * shrink**2 - output * sigma * shrink

    def sample(
        self, condition: Condition, sigmas: Tensor, guidance: Tensor, draw: Draw
    ) -> Generator[Tensor, None, Tensor]:
        """Euler steps; yields the clean latents [T, 4, h, w] as guessed at each, and returns the last. Latents are the
        VAE's times its factor. guidance [T]."""
        shape = (len(condition.vector), *condition.latent.shape[1:])
        levels = sigmas.tolist()
        guidance = guidance.to(condition.latent)
        noisy = draw(shape).to(condition.latent) * (1 + levels[0] ** 2) ** 0.5
        for sigma, following in itertools.pairwise(levels):
            clean = self.denoised(noisy, sigma, condition, guidance)
            noisy = noisy + (following - sigma) * (noisy - clean) / sigma
            yield clean
        return noisy

    def decode(self, latents: Tensor) -> Tensor:
        """[N, 3, H, W] around [-1, 1]; a few at a time, as every frame is a picture of its own."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return torch.cat([self.vae.decode(part).sample.float() for part in scaled.split(_DECODED_AT_ONCE)])
