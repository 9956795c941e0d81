"""DMV3D as a reconstructor: of its own views it builds the object, all others go to the one that goes by pictures."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import torch

from backend.cameras import orbit, world_to_camera_opencv
from backend.datatypes import Gaussians, Step, Views
from backend.packs import PACKS
from backend.reconstruct.dmv3d import Dmv3dReconstructor
from backend.render.geometry import rasterization_geometry
from backend.render.views import render_gaussians
from backend.training.dataset import HELD_OUT_SEED
from backend.training.dmv3d import finish
from backend.training.world.scene import sample_object
from backend.training.world.tracer import render_batch
from backend.views.dmv3d import AZIMUTHS, ELEVATION, FOV_DEGREES, RADIUS, Dmv3dGenerator

pytestmark = pytest.mark.skipif(
    not all(pack.present for pack in PACKS.values()), reason="the starter pack has not been trained yet"
)


class Other:
    """Says that it was asked."""

    asked = 0

    def reconstruct(self, views: Views, warnings: list[str]) -> Generator[Step, None, Gaussians]:
        self.asked += 1
        yield Step(1, 1)
        one = torch.ones(1, 3)
        return Gaussians(one, one, torch.ones(1, 4) / 2, torch.ones(1), one)


@pytest.fixture(scope="module")
def generator() -> Dmv3dGenerator:
    return Dmv3dGenerator.load()


def views_of(kind: str, size: int = 128) -> Views:
    """Four views of an object that training never saw, with its caption."""
    example = sample_object(HELD_OUT_SEED, 7, kind)
    cameras = orbit(list(AZIMUTHS), ELEVATION, RADIUS, FOV_DEGREES, size)
    return Views(render_batch([example.rows], [cameras])[0][0], cameras, example.caption)


def test_it_builds_what_it_knows(generator: Dmv3dGenerator) -> None:
    other = Other()
    reconstructor = Dmv3dReconstructor(generator, load_other=lambda: other)
    views = views_of("pumpkin")
    gaussians = finish(reconstructor.reconstruct(views, []))
    assert (other.asked, reconstructor.used_packs) == (0, ("dmv3d", "reader"))
    made = render_gaussians(gaussians, views.cameras)
    inside, outside = views.rgba[:, 3] > 0.9, views.rgba[:, 3] < 0.1
    assert float(made[:, 3][inside].mean()) > 0.95
    assert float(made[:, 3][outside].mean()) < 0.08
    assert float((made[:, :3] - views.rgba[:, :3]).abs().mean(1)[inside & (made[:, 3] > 0.9)].mean()) < 0.08


def test_it_knows_what_no_view_shows(generator: Dmv3dGenerator) -> None:
    """From a little above, four views of a donut hardly show that there is a hole."""
    reconstructor = Dmv3dReconstructor(generator, load_other=Other)
    gaussians = finish(reconstructor.reconstruct(views_of("donut"), []))
    above = orbit([0.0], 85.0, RADIUS, FOV_DEGREES, 64)
    depth, _, alpha = rasterization_geometry(
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, world_to_camera_opencv(above),
        above.intrinsics, 64, 64, median=True,
    )  # fmt: skip
    middle, ring = depth[0, 30:34, 30:34, 0], depth[0][alpha[0] > 0.9].quantile(0.1)
    assert float(alpha[0, 30:34, 30:34].min()) < 0.5 or float(middle.max() - ring) > 0.25


@pytest.mark.parametrize(
    "change",
    [
        lambda views: Views(views.rgba, views.cameras),
        lambda views: Views(views.rgba[:2], views.cameras[:2], "a pumpkin"),
    ],
    ids=["from outside", "two of them"],
)
def test_all_others_go_by_the_pictures_alone(generator: Dmv3dGenerator, change) -> None:  # type: ignore[no-untyped-def]
    other = Other()
    reconstructor = Dmv3dReconstructor(generator, load_other=lambda: other)
    assert len(finish(reconstructor.reconstruct(change(views_of("pumpkin")), []))) == 1
    assert (other.asked, reconstructor.used_packs) == (1, ("lgm",))


def test_random_weights_are_nobodys(generator: Dmv3dGenerator) -> None:
    reconstructor = Dmv3dReconstructor(generator, None, Other)
    finish(reconstructor.reconstruct(views_of("pumpkin"), []))
    assert reconstructor.used_packs == ()


def test_a_kind_is_read_from_the_views_where_no_words_name_it(generator: Dmv3dGenerator) -> None:
    views = views_of("chair")
    words = generator.words("", views.rgba[0])
    assert generator.vocabulary.kinds(words) == ["chair"]
    told = generator.words("a red mug", views.rgba[0])
    assert generator.vocabulary.kinds(told) == ["mug"]
