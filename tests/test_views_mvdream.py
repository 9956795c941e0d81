"""MVDream's and ImageDream's sampling against values that the released code gave, and the views that come of it.

`pytest tests/test_views_mvdream.py -m slow` adds ImageDream's 30 steps (a quarter of a minute).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch
from multiview_cases import SMALL, TOLERANCE, VARIANTS, drawn, small_network, stored
from stand_ins import ball_views
from torch import Tensor

from backend.cameras import orbit
from backend.datatypes import CANONICAL_SIZE, Views
from backend.errors import BadInput
from backend.nets.multiview_unet import time_features
from backend.recipes import RECIPES
from backend.reconstruct.published_lgm import model_cameras
from backend.views import mvdream
from backend.views.mvdream import MultiViewGenerator, framed
from backend.views.mvdream_pipeline import MultiViewPipeline, camera_vectors
from backend.views.mvdream_untrained import FULL, released_scheduler, untrained_pipeline
from backend.views.picture import object_bounds


@pytest.fixture(scope="module", params=[False, True], ids=["words", "picture"])
def generator(request: pytest.FixtureRequest) -> MultiViewGenerator:
    return MultiViewGenerator(untrained_pipeline(request.param, SMALL))


def finished(walk: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
    steps = []
    while True:
        try:
            steps.append(next(walk))
        except StopIteration as end:
            return steps, end.value


def source(generator: MultiViewGenerator) -> dict[str, Any]:
    """What the model takes: words, or a picture of a ball."""
    if not generator.pipeline.pictured:
        return {"prompt": "a red mug"}
    return {"image": ball_views(mvdream.PICTURE_SIDE).rgba[0]}


# -- as the released code does it ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "steps"),
    [("mvdream", 5), ("mvdream", 30), ("imagedream", 5), pytest.param("imagedream", 30, marks=pytest.mark.slow)],
)
def test_sampling_takes_the_released_codes_way(variant: str, steps: int) -> None:
    """Guidance 5, the whole loop; a random network's latents grow, so differences are told in their deviation."""
    pipeline = untrained_pipeline(variant == "imagedream", SMALL)
    pipeline.unet = small_network(variant)
    views = VARIANTS[variant]
    words = torch.cat([drawn(f"{variant}:pipe:{name}", 1, 77, 96) for name in ("neg", "pos")])
    given: dict[str, Tensor] = {}
    if pipeline.pictured:
        tokens = drawn("imagedream:pipe:image_embeds", 1, 257, 1280)
        latent = drawn("imagedream:pipe:image_latents", 1, 4, 16, 16)
        given = {"picture": torch.cat([tokens * 0, tokens]), "picture_latent": torch.cat([latent * 0, latent])}
    noise = torch.randn(views, 4, 16, 16, generator=torch.manual_seed(1234))
    camera = camera_vectors(0.0, empty=pipeline.pictured)
    with torch.inference_mode():
        walked, last = finished(pipeline.denoise(noise, words, camera, steps, 5.0, **given))
    assert [index for index, _, _ in walked] == list(range(steps))
    for name, latents in (("step1", walked[0][1]), ("final", last)):
        expected = stored()[f"{variant}.{name}.steps{steps}.g5"]
        # The picture's own latents are thrown away; there float32 is a thing of four digits.
        difference = (latents[:4] - expected[:4]).abs().max() / expected[:4].std()
        assert difference < TOLERANCE, name
        assert (latents - expected).abs().max() / expected.std() < 5 * TOLERANCE, name


def test_cameras_are_the_released_codes() -> None:
    """Its elevation points down: what it calls 15 degrees are our -15."""
    tables = stored()
    for name, arguments in {
        "n4_e0": (0.0, 0.0, False),
        "n4_e0_extra": (0.0, 0.0, True),
        "n4_e15_az90": (-15.0, 90.0, False),
        "n4_e15_extra": (-15.0, 0.0, True),
    }.items():
        assert (camera_vectors(*arguments) - tables[f"camera.{name}"]).abs().max() < 1e-6, name
    assert (orbit([0.0, 90.0, 180.0, 270.0], -15.0, 1.0, 50.0, 8).camera_to_world.flatten(1)
            - tables["camera.n4_e15_noblender"]).abs().max() < 1e-6  # fmt: skip
    for variant in VARIANTS:
        told = camera_vectors(-10.0, empty=variant == "imagedream").repeat(2, 1)
        assert (told - tables[f"{variant}.camera"]).abs().max() < 1e-6


def test_times_and_schedule_are_the_released_codes() -> None:
    tables, scheduler = stored(), released_scheduler()
    for width in (32, 320):
        assert (time_features(tables["temb.t"], width) - tables[f"temb.dim{width}"]).abs().max() < TOLERANCE
    for steps in (5, 20, 30, 50):
        scheduler.set_timesteps(steps)
        assert torch.equal(scheduler.timesteps, tables[f"ddim.timesteps{steps}"])
    assert torch.equal(scheduler.alphas_cumprod, tables["ddim.alphas_cumprod"])
    assert float(scheduler.final_alpha_cumprod) == float(tables["ddim.final_alpha_cumprod"])
    assert float(scheduler.init_noise_sigma) == float(tables["ddim.init_noise_sigma"])


def test_full_size_parts_are_as_large_as_the_published_ones() -> None:
    """In half precision: the sizes of the four files on the hub, but for their heads."""
    with torch.device("meta"):
        parts = untrained_pipeline(True, FULL).components
    for name, size in {
        "image_encoder": 1_261_595_704,
        "text_encoder": 680_820_392,
        "unet": 1_883_435_904,
        "vae": 167_335_342,
    }.items():
        held = 2 * sum(value.numel() for value in parts[name].state_dict().values())
        assert 0 < size - held < 200_000, name


def test_the_picture_is_prepared_as_the_released_code_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIP's tokens of the last layer but one, from bytes that are not rounded; the latent is sampled."""
    pipeline = untrained_pipeline(True, SMALL)
    rgb = torch.rand(3, 96, 96, generator=torch.manual_seed(0))
    seen: dict[str, Any] = {}
    processor = pipeline.feature_extractor

    def watched(images: Any, return_tensors: str) -> Any:
        seen["bytes"] = torch.from_numpy(images.copy()).permute(2, 0, 1)
        return processor(images=images, return_tensors=return_tensors)

    pipeline.register_modules(feature_extractor=watched)
    pipeline.image_encoder.encoder.layers[-2].register_forward_hook(lambda m, i, out: seen.update(tokens=out))
    with torch.inference_mode():
        tokens, latent = pipeline.encode_picture(rgb, torch.Generator().manual_seed(3))
        small = torch.nn.functional.interpolate(2 * rgb[None] - 1, (64, 64), mode="bilinear", align_corners=False)
        posterior = pipeline.vae.encode(small).latent_dist
        expected = posterior.mean + posterior.std * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(seen["bytes"], torch.floor(rgb * 255).to(torch.uint8))
    assert torch.equal(tokens, seen["tokens"])
    assert tokens.shape == (1, 5, 1280)
    assert (latent - 0.18215 * expected).abs().max() < 1e-5


# -- the views ------------------------------------------------------------------------------------------------------


def test_views_progress_and_previews(generator: MultiViewGenerator) -> None:
    steps, views = finished(generator.generate(**source(generator), seed=1, steps=3, guidance=5.0))
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert all(step.steps == 4 and step.message for step in steps)
    assert all(step.preview.shape == (4, 4, 160, 160) and step.preview.dtype == torch.float32 for step in steps[:-1])
    assert isinstance(views, Views)
    assert views.rgba.shape == (4, 4, 64, 64)
    assert float(views.rgba.min()) >= 0
    assert float(views.rgba.max()) <= 1


def test_cameras_are_lgms_in_the_canonical_frame(generator: MultiViewGenerator) -> None:
    """Front first, each next one a quarter turn to the right; an object of the canonical size fills its share."""
    _, views = finished(generator.generate(**source(generator), steps=1, guidance=1.0, elevation=30.0))
    positions = views.cameras.camera_to_world[:, :3, 3] / mvdream.RADIUS
    high, flat = 0.5, 0.75**0.5
    expected = torch.tensor([[0, high, flat], [flat, high, 0], [0, high, -flat], [-flat, high, 0]])
    assert (positions - expected).abs().max() < 1e-5
    recipe = RECIPES["lgm"]
    assert (recipe.radius, recipe.fov_degrees) == (mvdream.RADIUS, mvdream.FOV_DEGREES)
    _, turn, _ = model_cameras(views.cameras)
    assert torch.allclose(turn, torch.eye(3), atol=1e-6)
    half = 0.5 * views.cameras.height / float(views.cameras.intrinsics[0, 1, 1]) * mvdream.RADIUS
    assert CANONICAL_SIZE / (2 * half) == pytest.approx(mvdream.OBJECT_FRACTION, abs=0.005)


def test_views_come_in_lgms_order(generator: MultiViewGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's second view is the front."""

    def decoded(latents: Tensor) -> Tensor:
        return torch.arange(4.0)[:, None, None, None].expand(4, 3, 64, 64) / 8

    monkeypatch.setattr(generator.pipeline, "decode", decoded)
    _, views = finished(generator.generate(**source(generator), steps=1, guidance=1.0))
    assert (views.rgba[:, 0, 0, 0] * 8).tolist() == [1.0, 2.0, 3.0, 0.0]


def test_guidance_of_one_asks_the_network_once(generator: MultiViewGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    generator.pipeline.unet.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    for guidance in (1.0, 0.5, 7.5):
        finished(generator.generate(**source(generator), steps=1, guidance=guidance))
    generator.pipeline.unet._forward_pre_hooks.clear()
    assert rows == [1, 2, 2]


def test_negatives_are_the_released_ones(generator: MultiViewGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[str]] = []
    plain = MultiViewPipeline.encode_words
    monkeypatch.setattr(
        MultiViewPipeline, "encode_words", lambda self, prompts: (said.append(prompts), plain(self, prompts))[1]
    )
    given: list[dict[str, Any]] = []
    hook = generator.pipeline.unet.register_forward_pre_hook(
        lambda module, arguments: given.append({"picture": arguments[4], "latent": arguments[5]})
    )
    finished(generator.generate(**source(generator), steps=1, guidance=5.0))
    hook.remove()
    if not generator.pipeline.pictured:
        assert said == [[mvdream.NEGATIVE_PROMPT, "a red mug"]]
        assert given == [{"picture": None, "latent": None}]
    else:
        assert said == [["", ""]]
        for value in given[0].values():
            assert float(value[0].abs().max()) == 0 < float(value[1].abs().max())


def test_the_other_source_is_refused(generator: MultiViewGenerator) -> None:
    other: dict[str, Any] = {"prompt": "a mug"} if generator.pipeline.pictured else {"image": torch.ones(4, 64, 64)}
    for given, words in (
        (other, "This model takes"),
        ({}, "neither"),
        ({**source(generator), "steps": 1000}, "999"),
    ):
        with pytest.raises(BadInput, match=words):
            next(generator.generate(**given))
    if generator.pipeline.pictured:
        with pytest.raises(BadInput, match="4, S, S"):
            next(generator.generate(image=torch.ones(3, 64, 64)))


def test_words_beyond_the_encoder_are_told(generator: MultiViewGenerator) -> None:
    assert generator.notes("a red mug", None) == []
    (note,) = generator.notes("x" * 75 + " handle", None)
    assert note.endswith("'handle'.")
    assert generator.notes("x" * 75, None) == []


def test_as_other_pipelines_do_it_calls_back(generator: MultiViewGenerator) -> None:
    told: list[tuple[int, int, tuple[int, ...]]] = []
    given = source(generator)
    if "image" in given:
        given["image"] = given["image"][:3]
    pictures = generator.pipeline(
        **given,
        steps=2,
        callback_on_step_end=lambda pipe, step, time, kept: told.append((step, int(time), kept["latents"].shape)),
    )
    assert pictures.shape == (4, 3, 64, 64)
    assert told == [(0, 501, (4, 4, 8, 8)), (1, 1, (4, 4, 8, 8))]


# -- what is cut out, and how it is framed --------------------------------------------------------------------------


@pytest.mark.parametrize("background", [0.5, 1.0])
def test_painted_backgrounds_become_transparent(
    generator: MultiViewGenerator, monkeypatch: pytest.MonkeyPatch, background: float
) -> None:
    """Words: whatever the background, each view fills its share. A picture: over white the views are as painted."""
    ball = ball_views(64)
    painted = ball.over(1.0 if generator.pipeline.pictured else background)
    monkeypatch.setattr(generator.pipeline, "decode", lambda latents: painted)
    _, views = finished(generator.generate(**source(generator), steps=1, guidance=1.0))
    assert float(views.rgba[:, 3, 0].max()) == 0
    top, bottom, left, right = object_bounds(views.rgba[0, 3])
    if generator.pipeline.pictured:
        assert (views.over(1.0) - painted[mvdream.ORDER]).abs().max() < 0.01
    else:
        assert max(bottom - top, right - left) == pytest.approx(mvdream.OBJECT_FRACTION * 64, abs=1.5)
    inside = views.rgba[0, :3, 28:36, 28:36]
    assert (inside - ball.rgba[0, :3, 28:36, 28:36]).abs().max() < 0.02


def test_views_are_centred_and_scaled_alike() -> None:
    rgba = torch.zeros(4, 4, 64, 64)
    for index, (width, left) in enumerate([(10, 5), (40, 20), (10, 40), (40, 0)]):
        height, top = 20, 30
        rgba[index, :, top : top + height, left : left + width] = 1.0
    moved = framed(rgba)
    sizes = []
    for view in moved:
        top, bottom, left, right = object_bounds(view[3])
        assert abs(top + bottom - 64) <= 1
        assert abs(left + right - 64) <= 1
        sizes.append((bottom - top, right - left))
    assert sizes[0] == sizes[2]
    assert sizes[1] == sizes[3]
    assert sizes[1][1] == round(0.8 * 64)
    assert abs(sizes[0][0] - sizes[1][0]) <= 1  # as tall from the front as from the side
    rgba[2, 3] = 1.0
    assert torch.equal(framed(rgba), rgba)
