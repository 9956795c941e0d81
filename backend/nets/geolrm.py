"""GeoLRM: posed views to sparse anchors to 3D Gaussians (arXiv 2406.15333), computing what the released code computes.

Two networks of one kind, each with an image encoder of its own. The proposal network says which of 128^3 voxels the
object occupies; the occupied ones become the tokens of the reconstruction network, which makes 32 Gaussians of each.
World: +Z up, the object in [-0.5, 0.5]^3, cameras about 1.5 away. Tensors of one scene; module names are those of the
published checkpoint.
"""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.nets.geolrm_attention import CrossAttention, SelfAttention, rotary_table
from backend.nets.geolrm_config import GeoLrmConfig, StageConfig
from backend.nets.geolrm_encoder import ImageEncoder

HALF_EXTENT = 0.5
LEVELS = 2


def projection(camera_to_world: Tensor, intrinsics: Tensor) -> Tensor:
    """[V, 3, 4] of cameras: camera_to_world [V, 4, 4] with OpenGL axes, intrinsics [V, 3, 3] divided by the image's
    size."""
    return intrinsics.float() @ torch.linalg.inv(camera_to_world.float())[:, :3]


def project(points: Tensor, matrix: Tensor) -> Tensor:
    """[V, N, 2]: (u, v) of points [N, 3] in every picture, the picture being [0, 1] x [0, 1].

    matrix [V, 3, 4]: see `projection`. u is mirrored because cameras look along -z. As released: points outside of a
    picture or behind its camera get a place too, and nothing is tested for being hidden.
    """
    a, b, w = (points @ matrix[:, :, :3].transpose(1, 2) + matrix[:, None, :, 3]).unbind(-1)
    return torch.stack([1.0 - a / w, b / w], -1).nan_to_num(-9.0, -9.0, -9.0).clamp(-9.0, 9.0)


def voxel_index(points: Tensor, extent: float, grid: int) -> Tensor:
    """[N, 3] int64: the voxels that 3D RoPE counts, for points [N, 3] in [-extent, extent]. Truncated as released."""
    return ((points / extent + 1) * (grid - 1) / 2).long()


def lattice(side: int, device: torch.device | str = "cpu") -> Tensor:
    """[side^3, 3]: the points of a grid over the volume, both ends included, z fastest."""
    ticks = torch.linspace(-1, 1, side, device=device) * HALF_EXTENT
    return torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).flatten(0, 2)


class RmsNorm(nn.Module):
    """Root-mean-square normalisation in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), 1e-5)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 256 * -(-int(8 * width / 3) // 256)
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.w1.weight.dtype)
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Tokens among themselves, tokens into the views, feed-forward. The stream stays float32 in any dtype of weights.

    As released: the cross-attention's residual is its normalised input, so the stream from before it is dropped.
    """

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        width = config.width
        self.self_attention_norm = RmsNorm(width)
        self.self_attention = SelfAttention(width, config.heads)
        self.cross_attention_norm = RmsNorm(width)
        self.cross_attention = CrossAttention(width, config.image_width, config.heads, LEVELS, config.points)
        self.ffn_norm = RmsNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        features: Tensor,
        levels: list[tuple[int, int]],
        places: Tensor,
    ) -> Tensor:
        x = x + self.self_attention(self.self_attention_norm(x), rotary)
        x = self.cross_attention_norm(x)
        x = x + self.cross_attention(x, features, levels, places)
        return x + self.feed_forward(self.ffn_norm(x))


class GeometryTransformer(nn.Module):
    """Tokens that stand at points in space, and carry the raw coordinates in their first three channels."""

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        self.query_token = nn.Parameter(torch.randn(1, 1, config.width - 3))
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RmsNorm(config.width)

    def layer_by_layer(
        self,
        points: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        features: Tensor,
        levels: list[tuple[int, int]],
        places: Tensor,
    ) -> Generator[None, None, Tensor]:
        """[N, width] for points [N, 3]. Yields after every layer, so that a caller can show progress or stop."""
        x = torch.cat([points, self.query_token[0].float().expand(len(points), -1)], -1)
        for layer in self.layers:
            x = layer(x, rotary, features, levels, places)
            yield
        return self.norm(x)


class Stage(nn.Module):
    """What both networks are: an image encoder and a geometry transformer."""

    def __init__(self, stage: StageConfig, config: GeoLrmConfig) -> None:
        super().__init__()
        self.config = config
        self.head_width = stage.width // stage.heads
        self.encoder = ImageEncoder(stage.image_width, stage.dino)
        self.transformer = GeometryTransformer(stage)

    def tokens(
        self, images: Tensor, camera_to_world: Tensor, intrinsics: Tensor, points: Tensor, extent: float
    ) -> Generator[None, None, Tensor]:
        """[N, width] for points [N, 3]. Yields after the encoder and after every layer.

        images, camera_to_world, intrinsics: as in `ImageEncoder`; extent: half the side of what RoPE's indices span.
        """
        features = self.encoder(images, camera_to_world, intrinsics)
        yield
        index = voxel_index(points, extent, self.config.grid)
        rotary = rotary_table(index, self.head_width) if self.config.attention == "tokens" else None
        levels = self.encoder.levels(images.shape[-2], images.shape[-1])
        places = project(points, projection(camera_to_world, intrinsics))
        return (yield from self.transformer.layer_by_layer(points, rotary, features, levels, places))


class ProposalNetwork(Stage):
    """Which voxels the object occupies (section 3.2)."""

    def __init__(self, config: GeoLrmConfig) -> None:
        super().__init__(config.proposal, config)
        self.upsample = nn.Linear(config.proposal.width, config.block**3)

    def steps(self, images: Tensor, camera_to_world: Tensor, intrinsics: Tensor) -> Generator[None, None, Tensor]:
        """Logits [X, Y, Z] of occupancy. Yields as `Stage.tokens` does; the arguments are those of `forward`."""
        side, block = self.config.grid // self.config.block, self.config.block
        points = lattice(side, images.device)
        tokens = yield from self.tokens(images, camera_to_world, intrinsics, points, HALF_EXTENT)
        logits = self.upsample(tokens).view(side, side, side, block, block, block)
        return logits.permute(0, 3, 1, 4, 2, 5).reshape((self.config.grid,) * 3)

    def forward(self, images: Tensor, camera_to_world: Tensor, intrinsics: Tensor) -> Tensor:
        """Logits [X, Y, Z] of occupancy. images [V, 3, R, R] in [0, 1] on white; cameras as in `projection`."""
        return finish(self.steps(images, camera_to_world, intrinsics))


class GaussianHead(nn.Module):
    """Tokens to Gaussians near their anchors."""

    def __init__(self, config: GeoLrmConfig) -> None:
        super().__init__()
        self.offset, self.scale = config.offset, config.scale
        width = config.gaussians * 14
        self.latent_decoder = nn.Sequential(
            nn.Linear(config.reconstruction.width, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, tokens: Tensor, anchors: Tensor) -> Tensor:
        """[N * gaussians, 14]: position, opacity, scale, rotation wxyz, colour, of tokens [N, width] at anchors [N, 3].

        As released, Gaussians lie on one side of their anchor: offsets are sigmoids.
        """
        raw = self.latent_decoder(tokens).unflatten(-1, (-1, 14))
        offset, opacity, scale, rotation, color = raw.split([3, 1, 3, 4, 3], -1)
        parts = [
            anchors[:, None] + self.offset * offset.sigmoid(),
            opacity.sigmoid(),
            self.scale * scale.sigmoid(),
            F.normalize(rotation, dim=-1),
            color.clamp(-0.5, 0.5) + 0.5,
        ]
        return torch.cat(parts, -1).flatten(0, 1)


class ReconstructionNetwork(Stage):
    """Gaussians round the occupied voxels (section 3.3)."""

    def __init__(self, config: GeoLrmConfig) -> None:
        super().__init__(config.reconstruction, config)
        self.renderer = GaussianHead(config)

    def steps(
        self, images: Tensor, camera_to_world: Tensor, intrinsics: Tensor, anchors: Tensor
    ) -> Generator[None, None, Tensor]:
        """Rows [N * gaussians, 14] as `GaussianHead` gives them; see `Stage.tokens` for what is yielded."""
        tokens = yield from self.tokens(images, camera_to_world, intrinsics, anchors, self.config.rope_extent)
        return self.renderer(tokens, anchors)

    def forward(self, images: Tensor, camera_to_world: Tensor, intrinsics: Tensor, anchors: Tensor) -> Tensor:
        """[N * gaussians, 14] for anchors [N, 3]; the other arguments as in `ProposalNetwork`."""
        return finish(self.steps(images, camera_to_world, intrinsics, anchors))


def finish(steps: Generator[None, None, Tensor]) -> Tensor:
    """What a generator returns once nothing is left to yield."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def select_anchors(logits: Tensor, limit: int, seed: int, pad: bool = False) -> Tensor:
    """[N, 3]: the occupied voxels (logit > 0) of logits [X, Y, Z], X-major; where more than `limit`, a draw of them.

    pad: fill up to `limit` with points at the origin as the released code does, which then become Gaussians too.
    """
    ticks = torch.linspace(-1, 1, logits.shape[0], device=logits.device) * HALF_EXTENT
    anchors = ticks[(logits > 0).nonzero()]
    if len(anchors) > limit:
        chosen = torch.randperm(len(anchors), generator=torch.Generator().manual_seed(seed))[:limit]
        return anchors[chosen.to(anchors.device)]
    return F.pad(anchors, (0, 0, 0, limit - len(anchors))) if pad else anchors


class GeoLrm(nn.Module):
    """Both networks; the adapter runs one, selects anchors, and runs the other."""

    def __init__(self, config: GeoLrmConfig) -> None:
        super().__init__()
        self.config = config
        self.serializer = ProposalNetwork(config)
        self.lrm_generator = ReconstructionNetwork(config)

    def in_precision(self, dtype: torch.dtype) -> GeoLrm:
        """The encoders and the transformers' layers in `dtype`; what makes logits and Gaussians stays float32."""
        for stage in (self.serializer, self.lrm_generator):
            stage.encoder.to(dtype)
            stage.transformer.layers.to(dtype)
        return self
