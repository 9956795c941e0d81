"""What a picture shows and from where, as the denoiser should be told: its scene has the object's front at +Z."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backend.formats.images import resize
from backend.nets.picture_reader import PictureReader, PictureReaderConfig
from backend.views.signed import to_signed
from backend.weights import STARTER_PACK, load_checkpoint, load_into

_CERTAIN = 0.9  # of a kind's probability, from which the picture is taken for one: of known things 98 % are
_ANY_SIDE = 0.07  # of the likeliest bin's probability, under which an object looks alike from all sides


@dataclass(frozen=True)
class Reading:
    """kind: a word, or None where it is not certain enough; azimuth, elevation: of the picture's camera, in degrees;
    azimuth 0 looks at the object's front, 90 at the side that it has at +X. What is not known shows its front."""

    kind: str | None
    certainty: float
    azimuth: float
    elevation: float

    def __str__(self) -> str:
        return f"{self.kind or 'object'}, seen from {_side(self.azimuth)}"


def _side(azimuth: float) -> str:
    """Where a camera at `azimuth` degrees stands, in words; right is the viewer's who stands before the front."""
    turned = (azimuth + 180.0) % 360.0 - 180.0
    if abs(turned) < 15.0:
        return "the front"
    if abs(turned) > 165.0:
        return "behind"
    return f"{abs(turned):.0f}° {'right' if turned > 0 else 'left'} of the front"


class StarterPictureReader:
    """The starter pack's reader of pictures of `size` pixels."""

    def __init__(self, network: PictureReader, kinds: list[str], device: str = "cpu") -> None:
        self.network = network.to(device).eval()
        self.kinds = kinds
        self.device = device

    @classmethod
    def load(cls, path: Path | None = None, device: str = "cpu") -> StarterPictureReader:
        """Reads a checkpoint, by default the starter pack's. Raises MissingWeights."""
        path = path or STARTER_PACK / "reader.safetensors"
        state, metadata = load_checkpoint(path)
        config = metadata["config"]
        network = PictureReader(PictureReaderConfig(**{**config, "widths": tuple(config["widths"])}))
        load_into(network, state, path.name)
        return cls(network, metadata["kinds"], device)

    @torch.inference_mode()
    def read(self, picture: Tensor) -> Reading:
        """picture [4, S, S]: prepared, straight alpha, of any size."""
        size = self.network.config.image_size
        picture = resize(picture, size, size)
        kinds, bins, elevation = self.network(to_signed(picture)[None].to(self.device))
        certainty, kind = kinds[0].softmax(0).max(0)
        known = float(certainty) >= _CERTAIN
        azimuth = peak_azimuth(bins[0]) if known else 0.0
        name = self.kinds[int(kind)] if known else None
        return Reading(name, float(certainty), azimuth, math.degrees(float(elevation[0])))


def peak_azimuth(logits: Tensor) -> float:
    """Degrees in [0, 360) of the likeliest of the bins [A], refined by its two neighbours. Bin 0 lies at 0 degrees.

    0 where none stands out: what looks alike from all sides shall have the pictured one in front.
    """
    count = len(logits)
    best = int(logits.argmax())
    if float(logits.softmax(0)[best]) < _ANY_SIDE:
        return 0.0
    around = torch.stack([logits[best - 1], logits[best], logits[(best + 1) % count]]).softmax(0)
    return float((best + around[2] - around[0]) * 360.0 / count) % 360.0
