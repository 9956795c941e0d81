"""DMV3D: noisy posed views to a clean triplane NeRF in one pass (arXiv 2311.09217, section 3; its reconstructor: LRM).

    noisy RGBA + Plücker rays -> patches -+
    text tokens -------------------------+-> encoder --------> keys, values
    features lifted into a coarse grid ----> plane tokens -> decoder (self-, cross-attention, adaLN) -> triplane

Where this small version leaves the paper, it does so to learn quickly: the views carry alpha beside colour; text tokens
share the encoder with the views, and their mean joins the time condition, which also starts the plane tokens; the gates
of adaLN-Zero begin at one (see nets/transformer.py); and view features are projected into a coarse grid (mean and
variance over the views) that starts the plane tokens, which otherwise find the images only through attention.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.nets.transformer import ModulatedBlock, Modulation, sinusoidal_embedding
from backend.render.lift import lift_features


@dataclass(frozen=True)
class Dmv3dConfig:
    """Sizes of the network. plane_tokens: side of a plane in tokens; planes are eight times as wide in features."""

    vocabulary: int
    max_tokens: int = 20
    image_size: int = 64
    patch_size: int = 16
    stem_width: int = 48
    lift_width: int = 24
    width: int = 192
    heads: int = 3
    encoder_blocks: int = 2
    decoder_blocks: int = 4
    plane_tokens: int = 8
    plane_width: int = 24
    decoder_width: int = 64

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


class ViewStem(nn.Module):
    """Views [B * V, 4 + 6, H, W] to a feature map a quarter as wide and to patch tokens."""

    def __init__(self, config: Dmv3dConfig) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(10, config.stem_width, 8, stride=4, padding=2),
            nn.SiLU(),
            nn.Conv2d(config.stem_width, config.stem_width, 3, padding=1),
            nn.SiLU(),
        )
        stride = config.patch_size // 4
        self.patches = nn.Conv2d(config.stem_width, config.width, stride, stride=stride)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return features, self.patches(features).flatten(2).transpose(1, 2)


class Lift(nn.Module):
    """Features of V posed views, gathered in a grid twice as fine as the plane tokens and folded into the planes."""

    def __init__(self, config: Dmv3dConfig) -> None:
        super().__init__()
        self.resolution = 2 * config.plane_tokens
        self.mix = nn.Sequential(nn.Linear(2 * config.stem_width, config.lift_width), nn.SiLU())
        column = 4 * self.resolution * config.lift_width
        self.fold = nn.ModuleList(nn.Linear(column, config.width) for _ in range(3))

    def forward(self, features: Tensor, world_to_camera: Tensor, intrinsics: Tensor) -> Tensor:
        """features [B, V, h, w, C]; world_to_camera [B, V, 4, 4] with OpenCV axes; intrinsics [B, V, 3, 3] for images
        of the unit square. Returns plane tokens [B, 3 * tokens^2, width]."""
        batch = features.shape[0]
        side = self.resolution
        ticks = (torch.arange(side, device=features.device) + 0.5) / side * 2 - 1
        grid = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(-1, 3)
        camera = torch.einsum("bvij,kj->bvki", world_to_camera[..., :3, :3], grid) + world_to_camera[..., None, :3, 3]
        image = torch.einsum("bvij,bvkj->bvki", intrinsics, camera)
        where = image[..., :2] / image[..., 2:].clamp_min(1e-3)
        gathered = lift_features(features, where)
        volume = self.mix(gathered.to(features.dtype))
        tokens = side // 2
        volume = volume.reshape(batch, tokens, 2, tokens, 2, tokens, 2, -1)  # x, y, z, each as token and half
        # Rows of a plane run along its second axis, columns along its first: (y, x), (z, x), (y, z).
        orders = ((3, 1, 5), (5, 1, 3), (3, 5, 1))
        planes = []
        for fold, (row, column, through) in zip(self.fold, orders, strict=True):
            folded = volume.permute(0, row, column, row + 1, column + 1, through, through + 1, 7)
            planes.append(fold(folded.flatten(3)).flatten(1, 2))
        return torch.cat(planes, 1)


class PlaneHead(nn.Module):
    """Plane tokens [B, 3 * T^2, width] to feature planes [B, 3, 8T, 8T, C]; convolutions smooth the tokens' seams."""

    def __init__(self, config: Dmv3dConfig) -> None:
        super().__init__()
        self.tokens = config.plane_tokens
        hidden = config.plane_width + 8
        self.norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, 16 * hidden)
        self.coarse = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.fine = nn.Conv2d(hidden, config.plane_width, 3, padding=1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.expand(self.norm(tokens)).unflatten(1, (3, self.tokens, self.tokens)).flatten(0, 1)
        x = F.pixel_shuffle(x.permute(0, 3, 1, 2), 4)
        x = x + F.silu(self.coarse(x))
        x = self.fine(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
        return x.permute(0, 2, 3, 1).unflatten(0, (-1, 3)).contiguous()


class Dmv3d(nn.Module):
    """The denoiser. `forward` gives the triplane of the clean object, `decode` turns its features into a field."""

    def __init__(self, config: Dmv3dConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        patches = (config.image_size // config.patch_size) ** 2
        self.stem = ViewStem(config)
        self.patch_positions = nn.Parameter(torch.randn(patches, width) * 0.02)
        self.clean_view = nn.Parameter(torch.zeros(width))
        self.words = nn.Embedding(config.vocabulary, width)
        nn.init.normal_(self.words.weight, std=0.3)
        self.word_positions = nn.Parameter(torch.randn(config.max_tokens, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(128, width), nn.SiLU(), nn.Linear(width, width))
        self.text = nn.Linear(width, width)
        self.lift = Lift(config)
        self.first_guess = nn.Linear(width, width)
        nn.init.zeros_(self.first_guess.weight)
        self.plane_positions = nn.Parameter(torch.randn(3 * config.plane_tokens**2, width) * 0.02)
        self.encoder_modulation = Modulation(width, 2)
        self.decoder_modulation = Modulation(width, 3)
        self.encoder = nn.ModuleList(
            ModulatedBlock(width, config.heads, cross=False) for _ in range(config.encoder_blocks)
        )
        self.decoder = nn.ModuleList(
            ModulatedBlock(width, config.heads, cross=True) for _ in range(config.decoder_blocks)
        )
        self.planes = PlaneHead(config)
        self.field = nn.Sequential(
            nn.Linear(config.plane_width, config.decoder_width),
            nn.ReLU(inplace=True),
            nn.Linear(config.decoder_width, config.decoder_width),
            nn.ReLU(inplace=True),
            nn.Linear(config.decoder_width, 4),
        )
        last = self.field[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():  # begin transparent: an empty scene is nearer to any object than a full one
            last.weight.mul_(0.1)
            last.bias.copy_(torch.tensor([-3.0, 0.0, 0.0, 0.0]))

    def forward(
        self,
        images: Tensor,
        rays: Tensor,
        world_to_camera: Tensor,
        intrinsics: Tensor,
        log_snr: Tensor,
        tokens: Tensor,
        clean_first: Tensor,
    ) -> Tensor:
        """images [B, V, 4, H, W] noisy, signed (see views/dmv3d.py); rays [B, V, 6, H, W] Plücker;
        world_to_camera [B, V, 4, 4] OpenCV axes; intrinsics [B, V, 3, 3] of the unit square; log_snr [B];
        tokens [B, L] word numbers, 0 pads; clean_first [B] bool: view 0 carries no noise.
        Returns feature planes [B, 3, H', W', C]."""
        batch, views = images.shape[:2]
        features, patches = self.stem(torch.cat([images, rays], 2).flatten(0, 1))
        view_tokens = patches.unflatten(0, (batch, views)) + self.patch_positions
        is_clean = clean_first[:, None] & (torch.arange(views, device=images.device) == 0)
        view_tokens = view_tokens + is_clean[..., None, None].to(view_tokens.dtype) * self.clean_view

        present = tokens > 0
        words = self.words(tokens)
        pooled = (words * present[..., None]).sum(1) / present.sum(1, keepdim=True).clamp_min(1).sqrt()
        condition = self.time(sinusoidal_embedding(log_snr * 25.0, 128)) + self.text(pooled)

        x = torch.cat([view_tokens.flatten(1, 2), words + self.word_positions], 1)
        seen = present.new_ones(batch, x.shape[1] - tokens.shape[1])
        mask = torch.cat([seen, present], 1)
        modulation = self.encoder_modulation(condition)
        for block in self.encoder:
            x = block(x, modulation, mask=mask)

        features = features.permute(0, 2, 3, 1).unflatten(0, (batch, views))
        lifted = self.lift(features, world_to_camera, intrinsics)
        plane_tokens = lifted + self.plane_positions + self.first_guess(condition).unsqueeze(1)
        modulation = self.decoder_modulation(condition)
        for block in self.decoder:
            plane_tokens = block(plane_tokens, modulation, context=x, mask=mask)
        return self.planes(plane_tokens)

    def decode(self, features: Tensor) -> Tensor:
        """Plane features [..., C] to (opacity logit, colour logits) [..., 4]."""
        if features.device.type == "cpu" and features.dim() > 2:
            # Object by object: what the hidden layers make of a whole batch would fall out of the cache.
            return torch.stack([self.field(one) for one in features])
        return self.field(features)
