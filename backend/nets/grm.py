"""GRM: posed views to pixel-aligned 3D Gaussians (arXiv 2403.14621): a transformer over all views and an upsampler.

Where the released code differs from the paper this is the code, as the published weights were trained with it: depth is
unbounded and measured along the camera's axis, the rays of the input are half a picture off, and the upsampler shuffles
all views as one picture. Module names are those of the published weights.

World: +Z up. Poses have OpenCV axes (x right, y down, z forward); lenses are fx, fy, cx, cy in units of the picture's
width and height.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.errors import BadInput
from backend.nets.grm_config import GrmConfig
from backend.nets.grm_transformer import Blocks, Upsampler

CHANNELS = {"depth": 1, "feature": 3, "opacity": 1, "scaling": 3, "rotation": 4}
OPACITY_BIAS = -2.0


class Latent(NamedTuple):
    """What the heads say of a map of Gaussians, before the activations; float32.

    depth [B, V, R, R] along the camera's axis; feature (colour) and scaling [B, V, R, R, 3], opacity [B, V, R, R],
    rotation [B, V, R, R, 4], w first.
    """

    depth: Tensor
    feature: Tensor
    opacity: Tensor
    scaling: Tensor
    rotation: Tensor


class GaussianMaps(NamedTuple):
    """Gaussians [B, V, R, R, ...], one a pixel: means, scales, unit quaternions (w first), opacities, colours."""

    means: Tensor
    scales: Tensor
    quats: Tensor
    opacities: Tensor
    colors: Tensor


def _ticks(count: int, device: torch.device) -> Tensor:
    """[count] pixels from 0 to 1, both ends included."""
    return torch.arange(count, device=device, dtype=torch.float32) / (count - 1)


def ray_map(camera_to_world: Tensor, lenses: Tensor, height: int, width: int) -> Tensor:
    """[B, V, 6, H, W]: moment o x d, then direction d, of each pixel; camera_to_world [B, V, 4, 4], lenses [B, V, 4].

    Pixels run from 0 to 1 and half a picture is added to them, so that the top left one has the optical axis.
    """
    focal, centre = lenses[..., :2], lenses[..., 2:]
    x = (_ticks(width, lenses.device) + 0.5 - centre[..., :1]) / focal[..., :1]
    y = (_ticks(height, lenses.device) + 0.5 - centre[..., 1:]) / focal[..., 1:]
    rotation, origin = camera_to_world[..., :3, :3], camera_to_world[..., :3, 3]
    # R (x, y, 1) as a column of the picture's x, a row of its y, and a constant.
    columns = rotation[..., 0, None, None] * x[..., None, None, :]
    rows = rotation[..., 1, None, None] * y[..., None, :, None]
    direction = F.normalize(columns + rows + rotation[..., 2, None, None], dim=-3)
    moment = torch.linalg.cross(origin[..., None, None].expand_as(direction), direction, dim=-3)
    return torch.cat([moment, direction], -3)


def unproject(depth: Tensor, camera_to_world: Tensor, lenses: Tensor) -> Tensor:
    """[B, V, H, W, 3] positions of the pixels of depth maps [B, V, H, W] along the cameras' axes; float32."""
    height, width = depth.shape[-2:]
    focal, centre = lenses[..., :2], lenses[..., 2:]
    x = (_ticks(width, depth.device) - centre[..., :1]) / focal[..., :1]
    y = (_ticks(height, depth.device) - centre[..., 1:]) / focal[..., 1:]
    rotation, origin = camera_to_world[..., :3, :3], camera_to_world[..., :3, 3]
    columns = rotation[..., None, None, :, 0] * x[..., None, :, None]
    rows = rotation[..., None, None, :, 1] * y[..., :, None, None]
    ray = columns + rows + rotation[..., None, None, :, 2]
    return torch.addcmul(origin[..., None, None, :], depth[..., None], ray)


def latent_of(config: GrmConfig, raw: Tensor, camera_to_world: Tensor) -> Latent:
    """Offsets and limits of the heads' raw values [B, V, R, R, 12]."""
    depth, feature, opacity, scaling, rotation = raw.split(list(CHANNELS.values()), -1)
    distance = camera_to_world[..., :3, 3].norm(dim=-1)
    if config.scaling_activation_type == "exp":
        scaling = (scaling + config.scale_offset).clamp(max=config.scale_max)
    elif config.scaling_activation_type == "softplus":
        scaling = scaling.clamp(max=config.scale_max)
    shifted = depth[..., 0] + distance[..., None, None]
    return Latent(shifted, feature, opacity[..., 0] + OPACITY_BIAS, scaling, rotation)


def gaussian_maps(config: GrmConfig, raw: Tensor, camera_to_world: Tensor, lenses: Tensor) -> GaussianMaps:
    """Gaussians of the heads' raw values [B, V, R, R, 12], in float32: half precision puts them 0.02 off."""
    with torch.autocast(raw.device.type, enabled=False):
        pose, lens = camera_to_world.float(), lenses.float()
        latent = latent_of(config, raw.float(), pose)
        if config.render_activation_type == "exp":
            scales = latent.scaling.exp()
        elif config.render_activation_type == "softplus":
            scales = config.scale_multi_act * F.softplus(latent.scaling)
        else:
            least, most = config.scale_min_act, config.scale_max_act
            scales = least + (most - least) * latent.scaling.sigmoid()
        return GaussianMaps(
            unproject(latent.depth, pose, lens),
            scales,
            F.normalize(latent.rotation, dim=-1),
            latent.opacity.sigmoid(),
            latent.feature.sigmoid(),
        )


class TransformerEncoder(nn.Module):
    """Patches of pictures and rays, of all views, that look at each other."""

    def __init__(self, config: GrmConfig) -> None:
        super().__init__()
        patch = config.patch_size
        self.conv = nn.Conv2d(config.in_channels + 6, config.width, patch, stride=patch, bias=False)
        self.positional_embedding = nn.Parameter(torch.zeros(1, config.view_tokens, config.width))
        nn.init.trunc_normal_(self.positional_embedding, std=0.02)
        self.layernorm1 = nn.LayerNorm(config.width)
        self.transformer = Blocks(config.width, config.layers, config.bwindow_size)
        self.layernorm2 = nn.LayerNorm(config.width)

    def walk(self, pictures: Tensor) -> Generator[None, None, Tensor]:
        """[B, V, channels + 6, H, W] to tokens [B, V * patches, width], view after view, a block at a time."""
        batch, views = pictures.shape[:2]
        patches = self.conv(pictures.flatten(0, 1).to(self.conv.weight.dtype)).flatten(2).transpose(1, 2)
        x = self.layernorm1(patches + self.positional_embedding)
        x = x.reshape(batch, views * x.shape[1], -1)
        for block in self.transformer.resblocks:
            x = block(x)
            yield
        return self.layernorm2(x)


class VisualEncoder(nn.Module):
    """Views to raw maps of Gaussians."""

    def __init__(self, config: GrmConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer_encoder = TransformerEncoder(config)
        width = config.width
        if config.decoder_ratio:
            self.gaussian_upsampler = Upsampler(config)
            width = config.stage_widths[-1]
        for name, channels in CHANNELS.items():
            self.add_module(f"out_layer_{name}", nn.Conv2d(width, channels * config.shuffle**2, 1, bias=False))
        for name, spread in (("scaling", 0.02), ("opacity", 0.02), ("depth", 0.015)):
            nn.init.normal_(self.get_parameter(f"out_layer_{name}.weight"), std=spread)

    def walk(self, images: Tensor, camera_to_world: Tensor, lenses: Tensor) -> Generator[None, None, Tensor]:
        """See Grm.walk."""
        if self.config.half_res_input:
            images = halved(images)
        pictures = torch.cat([images, ray_map(camera_to_world, lenses, *images.shape[-2:])], 2)
        x = yield from self.transformer_encoder.walk(pictures)
        if self.config.decoder_ratio:
            x = yield from self.gaussian_upsampler.walk(x)
        return self._heads(x, images.shape[1])

    def _heads(self, x: Tensor, views: int) -> Tensor:
        """Tokens [B, V * side^2, width] to [B, V, R, R, 12], the last pixel shuffle done; float32, view by view."""
        r, side = self.config.shuffle, self.config.last_side
        heads = [self.get_parameter(f"out_layer_{name}.weight") for name in CHANNELS]
        weight = torch.cat([head.float().view(-1, r * r, head.shape[1]) for head in heads])
        weight = weight.transpose(0, 1).flatten(0, 1)  # rows are (dy, dx, channel)
        raw = torch.empty(x.shape[0], views, side, r, side, r, len(weight) // r**2, device=x.device)
        with torch.autocast(x.device.type, enabled=False):
            for view, tokens in enumerate(x.split(side * side, 1)):
                part = F.linear(tokens.float(), weight).view(-1, side, side, r, r, raw.shape[-1])
                raw[:, view] = part.transpose(2, 3)
        return raw.view(x.shape[0], views, self.config.input_res, self.config.input_res, -1)


def halved(images: Tensor) -> Tensor:
    """[B, V, C, H, W] at half the side, bilinear."""
    half = F.interpolate(images.flatten(0, 1), scale_factor=0.5, mode="bilinear", align_corners=False)
    return half.unflatten(0, images.shape[:2])


class Grm(nn.Module):
    """The network; `forward` gives the raw 12 numbers a pixel, `gaussian_maps` makes Gaussians of them."""

    def __init__(self, config: GrmConfig) -> None:
        super().__init__()
        self.config = config
        self.visual_encoder = VisualEncoder(config)

    @property
    def blocks(self) -> int:
        """How often `walk` yields."""
        return self.config.layers + 2 * self.config.decoder_ratio

    def walk(self, images: Tensor, camera_to_world: Tensor, lenses: Tensor) -> Generator[None, None, Tensor]:
        """Yields after each transformer block, for progress and cancelling; returns what `forward` returns."""
        views, size = images.shape[1], tuple(images.shape[-2:])
        if size != (self.config.input_res, self.config.input_res):
            raise BadInput(f"This GRM takes pictures of {self.config.input_res} pixels, not {size}.", "Resize them.")
        if not self.config.takes(views):
            raise BadInput(
                f"This GRM cannot use {views} views: all views' tokens have to make one square.",
                f"Give {self.config.usable_views(views)}.",
            )
        return self.visual_encoder.walk(images, camera_to_world, lenses)

    def forward(self, images: Tensor, camera_to_world: Tensor, lenses: Tensor) -> Tensor:
        """Raw maps [B, V, R, R, 12] (depth, colour, opacity, scale, rotation) in float32.

        images [B, V, 3, R, R] in [-1, 1]; camera_to_world [B, V, 4, 4]; lenses [B, V, 4]; the last two in float32.
        Raises BadInput for another size, and for a number of views that the upsampler cannot shuffle.
        """
        walk = self.walk(images, camera_to_world, lenses)
        while True:
            try:
                next(walk)
            except StopIteration as finished:
                return finished.value
