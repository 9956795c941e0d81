"""The small DMV3D: shapes, conditioning, the noise schedule, and sampling that obeys its seed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from backend.cameras import orbit, world_to_camera_opencv
from backend.errors import BadInput
from backend.nets.diffusion import alpha_sigma, ddim_step, log_snr
from backend.nets.dmv3d import Dmv3d, Dmv3dConfig
from backend.views.dmv3d import AZIMUTHS, ELEVATION, FOV_DEGREES, RADIUS, Dmv3dGenerator, camera_inputs
from backend.views.picture_reader import Reading
from backend.views.signed import from_signed, to_signed
from backend.vocabulary import Vocabulary

CAMERAS = orbit(list(AZIMUTHS), 20.0, RADIUS, FOV_DEGREES, 32)
CONFIG = Dmv3dConfig(
    vocabulary=len(Vocabulary()), image_size=32, width=48, heads=3, encoder_blocks=1, decoder_blocks=1, plane_tokens=4
)


def _network() -> Dmv3d:
    torch.manual_seed(0)
    network = Dmv3d(CONFIG).eval()
    for parameter in network.parameters():  # zero gates would hide what the condition does
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.05)
    return network


def _planes(network: Dmv3d, images: torch.Tensor, text: str = "a red mug", level: float = 0.0, clean: bool = False):
    inputs = [value[None] for value in camera_inputs(CAMERAS)]
    tokens = torch.tensor([Vocabulary().encode(text).tokens])
    with torch.no_grad():
        return network(images, *inputs, torch.tensor([level]), tokens, torch.tensor([clean]))


def test_planes_have_the_promised_shape() -> None:
    planes = _planes(_network(), torch.randn(1, 4, 4, 32, 32))
    assert planes.shape == (1, 3, 32, 32, CONFIG.plane_width)


def test_every_condition_matters() -> None:
    network, images = _network(), torch.randn(1, 4, 4, 32, 32)
    base = _planes(network, images)
    for changed in (
        _planes(network, images, text="a blue chair"),
        _planes(network, images, level=3.0),
        _planes(network, images, clean=True),
        _planes(network, images.flip(1)),
    ):
        assert (changed - base).abs().max() > 1e-4


def test_padding_does_not_matter() -> None:
    network, images = _network(), torch.randn(1, 4, 4, 32, 32)
    before = _planes(network, images)
    with torch.no_grad():
        network.words.weight[0] += 5.0
    assert torch.allclose(before, _planes(network, images), atol=1e-5)


def test_the_lift_puts_a_feature_where_its_ray_passes() -> None:
    """A mark in the middle of the front view must reach the cells on the z axis, and not those beside it."""
    network = _network()
    _, world_to_camera, intrinsics = (value[None] for value in camera_inputs(CAMERAS))
    features = torch.zeros(1, 4, 32, 32, CONFIG.stem_width)
    features[0, 0, 15:17, 15:17] = 1.0
    with torch.no_grad():
        difference = network.lift(features, world_to_camera, intrinsics) - network.lift(
            features * 0, world_to_camera, intrinsics
        )
    front = difference[0, :16].abs().sum(-1).reshape(4, 4)  # the (x, y) plane: rows run along y, columns along x
    assert front[1:3, 1:3].max() > 1e-3
    assert front[:, 0].max() < 1e-6
    assert front[:, 3].max() < 1e-6


def test_the_schedule_runs_from_clean_to_noise() -> None:
    levels = log_snr(torch.linspace(0, 1, 50))
    assert (levels.diff() <= 0).all()
    alpha, sigma = alpha_sigma(levels)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(50), atol=1e-5)
    assert sigma[0] < 0.02
    assert alpha[-1] < 0.001


def test_ddim_with_the_truth_arrives_at_the_truth() -> None:
    truth, noisy = torch.randn(3, 5), torch.randn(3, 5)
    levels = log_snr(torch.linspace(1, 0, 11))
    for now, then in pairwise(levels):
        noisy = ddim_step(noisy, truth, now, then)
    assert torch.allclose(noisy, truth, atol=0.05)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_fresh_noise_leaves_the_amount_of_noise_as_it_was(eta: float) -> None:
    torch.manual_seed(0)
    truth = torch.zeros(100_000)
    now, then = log_snr(torch.tensor([0.6, 0.5]))
    noisy = alpha_sigma(now)[1] * torch.randn(truth.shape)
    stepped = ddim_step(noisy, truth, now, then, eta, torch.randn(truth.shape))
    assert float(stepped.std()) == pytest.approx(float(alpha_sigma(then)[1]), rel=0.01)
    kept = float((stepped * noisy).mean() / (stepped.std() * noisy.std()))
    assert kept < 0.99  # some of the noise is another
    assert torch.equal(ddim_step(noisy, truth, now, then), ddim_step(noisy, truth, now, then, 0.0, truth + 1))


def test_signed_pictures_come_back() -> None:
    rgba = torch.rand(2, 4, 5, 5)
    rgba[:, 3] = rgba[:, 3] * 0.9 + 0.1
    assert torch.allclose(from_signed(to_signed(rgba)), rgba, atol=1e-5)
    rgba[:, 3] = 0
    assert (to_signed(rgba)[:, :3] == 0).all()


def _walk(generator: Dmv3dGenerator, **how) -> tuple[int, object]:
    walk, steps = generator.generate(steps=3, **how), 0
    while True:
        try:
            next(walk)
            steps += 1
        except StopIteration as stop:
            return steps, stop.value


def test_generation_yields_steps_and_obeys_its_seed() -> None:
    generator = Dmv3dGenerator(_network(), Vocabulary())
    steps, views = _walk(generator, prompt="a red mug", seed=1)
    assert steps == 3
    assert views.rgba.shape == (4, 4, 64, 64)
    assert 0 <= views.rgba.min() <= views.rgba.max() <= 1
    assert torch.equal(views.rgba, _walk(generator, prompt="a red mug", seed=1)[1].rgba)
    assert not torch.equal(views.rgba, _walk(generator, prompt="a red mug", seed=2)[1].rgba)


class _Reader:
    """Reads every picture alike."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def read(self, picture: torch.Tensor) -> Reading:
        return self.reading


def _told(reading: Reading, prompt: str | None) -> tuple[torch.Tensor, list[int], object]:
    """The cameras and words that a generator with such a reader tells its network, and the views it returns."""
    network, told = _network(), {}
    network.register_forward_pre_hook(lambda _, inputs: told.update(cameras=inputs[2][0], tokens=inputs[5][0].tolist()))
    generator = Dmv3dGenerator(network, Vocabulary(), reader=lambda: _Reader(reading))
    _, views = _walk(generator, prompt=prompt, image=torch.rand(4, 64, 64))
    return told["cameras"], told["tokens"], views


def test_the_network_is_told_from_where_a_picture_was_taken() -> None:
    cameras, tokens, views = _told(Reading(None, 0.3, 40.0, 10.0), None)
    expected = orbit([40.0 + turn for turn in AZIMUTHS], 10.0, RADIUS, FOV_DEGREES, 32)
    assert torch.allclose(cameras, world_to_camera_opencv(expected), atol=1e-5)
    assert tokens == Vocabulary().no_text()
    # The views that come back go round from there, the hidden sides seen from a little above.
    heights = [10.0, ELEVATION, ELEVATION, ELEVATION]
    expected = orbit([40.0 + turn for turn in AZIMUTHS], heights, RADIUS, FOV_DEGREES, 64)
    assert torch.allclose(views.cameras.camera_to_world, expected.camera_to_world, atol=1e-5)


def test_the_network_is_told_what_a_picture_shows_unless_the_prompt_says_so() -> None:
    mug, encode = Reading("mug", 0.9, 0.0, 20.0), Vocabulary().encode
    assert _told(mug, None)[1] == encode("a mug").tokens
    assert _told(mug, "red")[1] == encode("mug red").tokens
    assert _told(mug, "a red chair")[1] == encode("a red chair").tokens


def test_a_picture_of_nothing_known_is_warned_about() -> None:
    reading, picture = Reading(None, 0.4, 0.0, 20.0), torch.rand(4, 64, 64)
    generator = Dmv3dGenerator(_network(), Vocabulary(), reader=lambda: _Reader(reading))
    assert "expect a guess" in generator.notes(None, picture)[0]
    assert generator.notes("a red mug", picture) == []  # the user says what it is
    assert "'gramophone'" in generator.notes("a gramophone mug", None)[0]


def test_an_imagined_object_is_framed_at_the_canonical_size() -> None:
    network = _network()
    generator, cameras = Dmv3dGenerator(network, Vocabulary()), orbit([0.0, 90.0], 0.0, RADIUS, FOV_DEGREES, 64)
    planes = _planes(network, torch.randn(1, 4, 4, 32, 32))
    assert torch.equal(generator._fitting(planes, cameras).camera_to_world, cameras.camera_to_world)  # it is empty

    def box(features: torch.Tensor) -> torch.Tensor:
        inside = (points[0] - torch.tensor([0.2, 0.0, 0.0])).abs().amax(-1) < 0.6
        return (inside.float() * 2 - 1)[None, :, None]

    ticks = (torch.arange(48) + 0.5) / 24 - 1
    points = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(1, -1, 3)
    network.decode = box  # type: ignore[method-assign]
    moved = generator._fitting(planes, cameras).camera_to_world[:, :3, 3]
    side = 1.2 - 1 / 24  # between the outermost points of the grid inside
    wanted = cameras.camera_to_world[:, :3, 3] * side / 1.8 + torch.tensor([0.2, 0.0, 0.0])
    assert torch.allclose(moved, wanted, atol=0.05)


def test_the_pictured_side_has_the_pictures_colours() -> None:
    network = _network()
    with torch.no_grad():
        network.field[-1].bias[0] = 3.0  # something to see
    generator, picture = Dmv3dGenerator(network, Vocabulary()), torch.rand(4, 64, 64)
    picture[3] = 0.0
    picture[3, 16:48, 16:48] = 1.0
    views = _walk(generator, image=picture)[1]
    assert torch.equal(views.rgba[0, :3, 16:48, 16:48], picture[:3, 16:48, 16:48])
    elsewhere = _walk(generator, image=picture, cameras=views.cameras)[1]
    assert torch.equal(views.rgba[:, 3], elsewhere.rgba[:, 3])  # the outlines stay the generator's own
    assert torch.equal(views.rgba[0, :, :16], elsewhere.rgba[0, :, :16])


def test_a_picture_conditions_the_views() -> None:
    generator = Dmv3dGenerator(_network(), Vocabulary())
    picture = torch.rand(4, 64, 64)
    _, one = _walk(generator, image=picture, seed=1)
    _, other = _walk(generator, image=1 - picture, seed=1)
    assert not torch.equal(one.rgba, other.rgba)
    with pytest.raises(BadInput, match="picture must be"):
        _walk(generator, image=torch.rand(4, 32, 32))
    with pytest.raises(BadInput, match="neither"):
        _walk(generator)
