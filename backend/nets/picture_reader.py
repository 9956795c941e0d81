"""A small residual network that reads one picture of an object: what kind it is, and from where it was taken.

    RGBA -> strided convolutions with residual blocks -> features of 4 x 4 places -> kind, azimuth (bins), elevation

Azimuth comes as a distribution over bins round the circle, because many objects look alike from several sides and a
mean of them would be a side from which none looks like that (compare the bins of viewpoint estimation: Tulsiani and
Malik, "Viewpoints and Keypoints", arXiv 1411.6067, section 3).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class PictureReaderConfig:
    """kinds: how many it tells apart; widths: channels at a half, a quarter, an eighth and a sixteenth of the size."""

    kinds: int
    image_size: int = 64
    azimuth_bins: int = 36
    widths: tuple[int, ...] = (24, 48, 96, 160)
    hidden: int = 192

    def to_dict(self) -> dict[str, int | list[int]]:
        return {**asdict(self), "widths": list(self.widths)}


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside the input [B, C, H, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norm_first, self.norm_second = (nn.GroupNorm(8, width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.norm_second(self.first(F.silu(self.norm_first(x))))))


class PictureReader(nn.Module):
    """See the figure above. The picture fills its frame as one that is prepared for the generator."""

    def __init__(self, config: PictureReaderConfig) -> None:
        super().__init__()
        self.config = config
        levels: list[nn.Module] = []
        before = 4
        for width in config.widths:
            levels += [nn.Conv2d(before, width, 4, stride=2, padding=1), ResidualBlock(width)]
            before = width
        self.features = nn.Sequential(*levels, nn.GroupNorm(8, before), nn.SiLU())
        places = (config.image_size // 2 ** len(config.widths)) ** 2
        self.hidden = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(before * places, config.hidden), nn.SiLU())
        self.kind = nn.Linear(config.hidden, config.kinds)
        self.azimuth = nn.Linear(config.hidden, config.azimuth_bins)
        self.elevation = nn.Linear(config.hidden, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pictures [B, 4, S, S], signed as the denoiser's (see views/signed.py). Returns logits of the kinds [B, K] and
        of the azimuth's bins [B, A], and the elevation in radians [B]."""
        hidden = self.hidden(self.features(pictures))
        return self.kind(hidden), self.azimuth(hidden), self.elevation(hidden).squeeze(1)
