"""The figures of an evaluation: what they say of equal and of different objects, and the sheets they leave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from backend.nets.dmv3d import Dmv3d, Dmv3dConfig
from backend.packs import PACKS
from backend.reconstruct.dmv3d import Dmv3dReconstructor
from backend.training.evaluate import color_difference, from_pictures, from_views, silhouette_iou
from backend.views.dmv3d import Dmv3dGenerator
from backend.vocabulary import TOKENS, Vocabulary


def test_outlines_and_colours_are_compared() -> None:
    left, half = torch.zeros(4, 8, 8), torch.zeros(4, 8, 8)
    left[3, :, :4], half[3, :4, :4] = 1.0, 1.0
    left[0], half[0], half[2] = 0.8, 0.8, 0.5
    assert silhouette_iou(left[3], left[3]) == 1.0
    assert silhouette_iou(left[3], half[3]) == 0.5
    assert color_difference(left, left) == 0.0
    assert abs(color_difference(left, half) - 0.5) < 1e-6


def test_pictures_are_judged_and_shown(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dmv3dConfig(
        vocabulary=len(TOKENS), image_size=32, width=48, heads=3, encoder_blocks=1, decoder_blocks=1, plane_tokens=4
    )
    generator = Dmv3dGenerator(Dmv3d(config), Vocabulary())
    figures = from_pictures(generator, 0, tmp_path, count=2)
    assert 0 <= figures["pictured_silhouette_iou"] < 0.9  # an untrained network hits nothing
    assert figures["color_difference"] > 0
    assert Image.open(tmp_path / "pictures.png").size == (2 * 9 * 64, 64 + 14)


@pytest.mark.skipif(
    not all(pack.present for pack in PACKS.values()), reason="the starter pack has not been trained yet"
)
def test_what_views_are_rebuilt_into_is_seen_from_other_sides() -> None:
    figures = from_views(Dmv3dReconstructor.load(), 0, count=2)
    assert set(figures) == {"dmv3d", "lgm"}
    for name in figures:
        assert figures[name]["silhouette_iou"] > 0.7
        assert figures[name]["psnr"] > 15
        assert figures[name]["depth_error"] < 0.2
