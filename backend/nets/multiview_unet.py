"""The U-Net of MVDream (arXiv 2308.16512) and ImageDream (arXiv 2312.02201): Stable Diffusion 2.1's, in which an
object's views see one another and know their cameras. A diffusers model whose module names are the released ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from backend.errors import MissingWeights
from backend.nets.multiview_attention import MultiViewTransformer, Resampler

PICTURE_WIDTH = 1280  # of the tokens of CLIP ViT-H/14, whatever the U-Net's width


class ResidualBlock(nn.Module):
    """Two convolutions, between which the embedding of time and camera is added."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outputs), nn.SiLU(), nn.Identity(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )  # the identity stands where training had dropout, which the names count
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.in_layers(x) + self.emb_layers(embedding)[..., None, None]
        return self.skip_connection(x) + self.out_layers(hidden)


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Sequential):
    """Layers in a row, each given what its kind needs."""

    def forward(  # type: ignore[override]
        self, x: Tensor, embedding: Tensor, words: Tensor, picture: Tensor | None, weight: float
    ) -> Tensor:
        for layer in self:
            if isinstance(layer, ResidualBlock):
                x = layer(x, embedding)
            elif isinstance(layer, MultiViewTransformer):
                x = layer(x, words, picture, weight)
            else:
                x = layer(x)
        return x


class MultiViewUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Noise in the latents of V views of an object, given its words, its cameras and perhaps a picture of it.

    The arguments are those of the released config.json. ip_dim: how many tokens a picture becomes, 0 for MVDream, which
    takes none; ip_weight: what its attention counts beside the words'. image_size: the side of the latents that it was
    trained on; the network itself takes any multiple of eight.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 32,
        in_channels: int = 4,
        out_channels: int = 4,
        model_channels: int = 320,
        attention_resolutions: Sequence[int] = (4, 2, 1),
        num_res_blocks: int = 2,
        channel_mult: Sequence[int] = (1, 2, 4, 4),
        num_head_channels: int = 64,
        transformer_depth: int = 1,
        context_dim: int = 1024,
        camera_dim: int = 16,
        ip_dim: int = 0,
        ip_weight: float = 1.0,
    ) -> None:
        super().__init__()
        embedding = 4 * model_channels
        self.time_embed = _embedder(model_channels, embedding)
        self.camera_embed = _embedder(camera_dim, embedding)
        if ip_dim:
            self.image_embed = Resampler(PICTURE_WIDTH, context_dim, ip_dim)

        def transformer(width: int) -> MultiViewTransformer:
            heads = width // num_head_channels
            return MultiViewTransformer(width, context_dim, heads, transformer_depth, bool(ip_dim))

        width, factor = model_channels, 1
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(in_channels, width, 3, padding=1))])
        skips = [width]
        for level, multiple in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers: list[nn.Module] = [ResidualBlock(width, multiple * model_channels, embedding)]
                width = multiple * model_channels
                if factor in attention_resolutions:
                    layers.append(transformer(width))
                self.input_blocks.append(Stage(*layers))
                skips.append(width)
            if level + 1 < len(channel_mult):
                self.input_blocks.append(Stage(Downsample(width)))
                skips.append(width)
                factor *= 2

        self.middle_block = Stage(
            ResidualBlock(width, width, embedding), transformer(width), ResidualBlock(width, width, embedding)
        )

        self.output_blocks = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(channel_mult))):
            for index in range(num_res_blocks + 1):
                layers = [ResidualBlock(width + skips.pop(), multiple * model_channels, embedding)]
                width = multiple * model_channels
                if factor in attention_resolutions:
                    layers.append(transformer(width))
                if level and index == num_res_blocks:
                    layers.append(Upsample(width))
                    factor //= 2
                self.output_blocks.append(Stage(*layers))

        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        words: Tensor,
        camera: Tensor,
        picture: Tensor | None = None,
        picture_latent: Tensor | None = None,
    ) -> Tensor:
        """latents [G, V, in, h, w] of G objects to the noise in them [G, V, out, h, w].

        timestep [G]; words [G, L, context]; camera [V, camera_dim], or [G, V, camera_dim]. picture [G, N, 1280], with
        picture_latent [G, in, h, w], which takes the place of the last view: the picture itself, seen by no camera.
        """
        groups, views = latents.shape[:2]
        dtype = self.dtype
        if picture_latent is not None:
            latents = torch.cat([latents[:, :-1], picture_latent[:, None].to(latents.dtype)], 1)
        time = time_features(timestep, self.config["model_channels"])
        embedding = self.time_embed(time.to(dtype))[:, None] + self.camera_embed(camera.to(dtype))
        embedding = embedding.expand(groups, views, -1).flatten(0, 1)
        words = words.to(dtype)
        context = None if picture is None else self.image_embed(picture.to(dtype))
        given = (embedding, words, context, self.config["ip_weight"])

        x = latents.flatten(0, 1).to(dtype)
        skips = []
        for stage in self.input_blocks:
            x = stage(x, *given)
            skips.append(x)
        x = self.middle_block(x, *given)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], 1), *given)
        return self.out(x).unflatten(0, (groups, views))


def time_features(timestep: Tensor, width: int) -> Tensor:
    """[G, width] cosines and sines of times [G], in float32."""
    return get_timestep_embedding(timestep, width, flip_sin_to_cos=True, downscale_freq_shift=0)


def _embedder(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.SiLU(), nn.Linear(outputs, outputs))


def config_of(shapes: Mapping[str, Sequence[int]], hints: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The arguments of a MultiViewUNet that a state dict's shapes tell; num_head_channels, ip_weight and image_size,
    which none tells, are taken from `hints` or are the released ones'.

    Raises MissingWeights where these are not the shapes of such a network.
    """
    multiples: list[int] = []
    attended: list[int] = []
    blocks = 0
    try:
        channels, inputs = shapes["input_blocks.0.0.weight"][:2]
        index = 1
        while True:
            stem = f"input_blocks.{index}."
            if f"{stem}0.in_layers.2.weight" in shapes:
                level = sum(f"input_blocks.{i}.0.op.weight" in shapes for i in range(index))
                blocks += level == 0
                multiples[level:] = [shapes[f"{stem}0.in_layers.2.weight"][0] // channels]
                if f"{stem}1.norm.weight" in shapes and 2**level not in attended:
                    attended.append(2**level)
            elif f"{stem}0.op.weight" not in shapes:
                break
            index += 1
        middle = "middle_block.1.transformer_blocks."
        depth = len({key[len(middle) :].split(".")[0] for key in shapes if key.startswith(middle)})
        found = {
            "in_channels": inputs,
            "out_channels": shapes["out.2.weight"][0],
            "model_channels": channels,
            "attention_resolutions": sorted(attended, reverse=True),
            "num_res_blocks": blocks,
            "channel_mult": multiples,
            "transformer_depth": depth,
            "context_dim": shapes[f"{middle}0.attn2.to_k.weight"][1],
            "camera_dim": shapes["camera_embed.0.weight"][1],
            "ip_dim": shapes["image_embed.latents"][1] if "image_embed.latents" in shapes else 0,
        }
    except (KeyError, IndexError, ValueError) as error:
        raise MissingWeights(
            f"These are not the weights of a multi-view U-Net: {error.args[0]} is missing or misshapen.",
            "Choose another file.",
        ) from error
    hints = hints or {}
    heads, weight, side = (hints.get(name) for name in ("num_head_channels", "ip_weight", "image_size"))
    return {
        **found,
        "image_size": side if isinstance(side, int) and 0 < side <= 128 and side % 8 == 0 else 32,
        "num_head_channels": heads if isinstance(heads, int) and heads > 0 else 64,
        "ip_weight": weight if isinstance(weight, int | float) else 1.0,
    }
