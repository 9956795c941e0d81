"""GeoLRM's image encoder: DINOv2 for what is seen, a convolution over colours and rays for where (section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backend.nets.dinov2 import Dinov2, Dinov2Config

STRIDE = 4  # pixels a token of the finer level; the coarser has half a DINOv2 patch
VIEWS_AT_ONCE = 4  # bounds the memory of the encoder, whatever the number of views

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def ray_embedding(camera_to_world: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """[V, 6, H, W]: direction d, then moment o x d, of the rays through the pixel centres.

    camera_to_world [V, 4, 4], OpenGL axes; intrinsics [V, 3, 3] divided by the image's size. As released: d is not
    normalised (its part along the line of sight is 1), one focal length serves both axes, and the principal point is
    the middle.
    """
    focal = intrinsics[:, 0, 0, None, None] * width
    across = (torch.arange(width, device=focal.device) - width / 2 + 0.5)[None, None, :] / focal
    down = (torch.arange(height, device=focal.device) - height / 2 + 0.5)[None, :, None] / focal
    shape = (len(focal), height, width)
    local = torch.stack([across.expand(shape), -down.expand(shape), -torch.ones_like(down).expand(shape)], 1)
    directions = torch.einsum("vij,vjhw->vihw", camera_to_world[:, :3, :3], local)
    origins = camera_to_world[:, :3, 3, None, None].expand_as(directions)
    return torch.cat([directions, torch.linalg.cross(origins, directions, dim=1)], 1)


class ImageEncoder(nn.Module):
    """Posed pictures to tokens of two levels, each view on its own."""

    def __init__(self, width: int, dino: Dinov2Config) -> None:
        super().__init__()
        self.model = Dinov2(dino)
        self.deconv = nn.Sequential(
            nn.ConvTranspose2d(dino.width, width, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.low_level_encoder = nn.Sequential(
            nn.Conv2d(9, width, STRIDE, stride=STRIDE, bias=False), nn.BatchNorm2d(width)
        )

    def levels(self, height: int, width: int) -> list[tuple[int, int]]:
        """(rows, columns) of tokens: the finer level, then the coarser."""
        patch = self.model.config.patch
        return [(height // STRIDE, width // STRIDE), (2 * (height // patch), 2 * (width // patch))]

    def forward(self, images: Tensor, camera_to_world: Tensor, intrinsics: Tensor) -> Tensor:
        """images [V, 3, R, R] in [0, 1], R a multiple of 4 and of the patch; the cameras as `ray_embedding` takes them.

        Returns [V, tokens, width]: the rows of the finer level, then those of the coarser.
        """
        parts = zip(*(t.split(VIEWS_AT_ONCE) for t in (images, camera_to_world, intrinsics)), strict=True)
        features = [self._some_views(*part) for part in parts]
        return features[0] if len(features) == 1 else torch.cat(features)

    def _some_views(self, images: Tensor, camera_to_world: Tensor, intrinsics: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        dtype = next(self.low_level_encoder.parameters()).dtype
        mean, deviation = (images.new_tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
        normalised = (images - mean) / deviation
        rays = ray_embedding(camera_to_world.float(), intrinsics.float(), height, width)
        fine = self.low_level_encoder(torch.cat([normalised, rays], 1).to(dtype))
        coarse = self.deconv(self.model(normalised.to(dtype)))
        return torch.cat([level.flatten(2).transpose(1, 2) for level in (fine, coarse)], 1)
