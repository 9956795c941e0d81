"""Words to a picture, with a tiny network of random weights: what is asked of it, its noise, its steps and its end."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from test_views_residence import WORKING, on_card
from text_to_image_cases import SMALL
from torch import Tensor

from backend.datatypes import Step
from backend.errors import BadInput
from backend.memory import LAYERS, RESERVE, TURNS, WHOLE
from backend.packs import PUBLISHED
from backend.views.residence import module_bytes
from backend.views.text_to_image import NEGATIVE_PROMPT, PACK, TextToImage, clean_guess
from backend.views.text_to_image_loading import assembled
from backend.views.text_to_image_untrained import FULL, networks, untrained_pipeline


@pytest.fixture(scope="module")
def small() -> TextToImage:
    return TextToImage(untrained_pipeline(SMALL))


def walked(maker: TextToImage, prompt: str = "a red mug", **options: Any) -> tuple[Tensor, list[Step]]:
    run, steps = maker.generate(prompt, **({"steps": 3} | options)), []
    while True:
        try:
            steps.append(next(run))
        except StopIteration as end:
            return end.value, steps


def test_every_step_is_told_with_a_picture_of_it(small: TextToImage) -> None:
    picture, steps = walked(small, seed=1)
    assert picture.shape == (3, 64, 64)
    assert 0 <= float(picture.min()) < float(picture.max()) <= 1
    assert [(step.step, step.steps) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for step in steps[:-1]:
        assert step.preview is not None
        assert step.preview.shape == (1, 4, 256, 256)


def test_the_seed_decides_and_the_pipeline_is_diffusers_own(small: TextToImage) -> None:
    """The same noise, given to the library's pipeline by hand, comes out as the same picture."""
    picture, _ = walked(small, seed=1)
    assert torch.equal(walked(small, seed=1)[0], picture)
    assert (walked(small, seed=2)[0] - picture).abs().mean() > 0.01
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = StableDiffusionXLPipeline(**small.pipeline.components, add_watermarker=False)
    theirs.set_progress_bar_config(disable=True)
    made = theirs(
        small.wording("a red mug"), negative_prompt=NEGATIVE_PROMPT, num_inference_steps=3, guidance_scale=7.0,
        latents=noise, height=64, width=64, output_type="pt",
    )  # fmt: skip
    assert (made.images[0] - picture).abs().max() < 1e-5


def test_no_random_numbers_of_others_are_used_up(small: TextToImage) -> None:
    before = torch.random.get_rng_state()
    walked(small, seed=1, steps=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_guess_between_two_latents_is_the_schedulers_own(
    small: TextToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, guesses, seen = small.pipeline.scheduler, [], []
    step = type(scheduler).step

    def spied(self: Any, *inputs: Any, **options: Any) -> Any:
        made = step(self, *inputs, **{**options, "return_dict": True})
        guesses.append(made.pred_original_sample)
        return (made.prev_sample,)

    def told(before: Tensor, after: Tensor, sigma: float, next_sigma: float) -> Tensor:
        seen.append(clean_guess(before, after, sigma, next_sigma))
        return seen[-1]

    monkeypatch.setattr(type(scheduler), "step", spied)
    monkeypatch.setattr("backend.views.text_to_image.clean_guess", told)
    walked(small)
    assert len(seen) == 3
    for ours, theirs in zip(seen, guesses, strict=True):
        assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()


def test_closing_ends_the_sampling_at_that_step(small: TextToImage, monkeypatch: pytest.MonkeyPatch) -> None:
    called, forward = [], small.pipeline.unet.forward

    def counted(*inputs: Any, **options: Any) -> Any:
        called.append(1)
        return forward(*inputs, **options)

    monkeypatch.setattr(small.pipeline.unet, "forward", counted)
    threads = threading.active_count()
    run = small.generate("a red mug", steps=50)
    next(run)
    next(run)
    run.close()
    assert len(called) == 2
    assert threading.active_count() == threads


def test_the_prompt_is_put_before_a_plain_background_and_stands_out_from_it(small: TextToImage) -> None:
    for prompt, background in (("a red mug", "white"), ("a snowman", "gray"), ("a White vase", "gray")):
        wording = small.wording(prompt)
        assert wording.startswith(f"{prompt}, ")
        for words in ("one single whole object", "centered", f"plain {background} background"):
            assert words in wording
    assert "cropped" in NEGATIVE_PROMPT


def test_what_is_too_long_is_said_and_the_setting_kept(small: TextToImage) -> None:
    assert small.notes("a red mug") == []
    said = small.notes("a red mug " * 20)
    assert len(said) == 1
    assert "ignored: '" in said[0]
    assert "background" in small.wording("a red mug " * 20)


def test_senseless_requests_are_refused(small: TextToImage) -> None:
    with pytest.raises(BadInput, match="no prompt"):
        next(small.generate("  "))
    with pytest.raises(BadInput, match="1 to 1000 steps"):
        next(small.generate("a mug", steps=0))


def test_weights_in_half_precision_lose_nothing_on_a_cpu(small: TextToImage) -> None:
    """They lie in memory as they were published, and are widened layer by layer."""
    assert small.pipeline.unet.mid_block.attentions[0].proj_in.weight.dtype == torch.float16
    plain = untrained_pipeline(SMALL)
    parts = {}
    for name in ("unet", "text_encoder", "text_encoder_2"):
        fresh = networks(SMALL)[name]().eval()
        fresh.load_state_dict({key: value.float() for key, value in getattr(plain, name).state_dict().items()})
        parts[name] = fresh
    wide = StableDiffusionXLPipeline(**(plain.components | parts), add_watermarker=False)
    assert torch.equal(walked(TextToImage(wide))[0], walked(small)[0])


@pytest.mark.parametrize("narrow", [False, True])
def test_whatever_fits_on_a_graphics_card_the_picture_is_the_same(narrow: bool) -> None:
    """On a made-up card, off which weights are not-a-number; narrow: they lie in half precision, as for a card that
    computes in float32."""
    made = {name: make().eval() for name, make in networks(SMALL).items()}
    other = untrained_pipeline(SMALL)
    pipeline = assembled(
        made["vae"], made["text_encoder"], made["text_encoder_2"], other.tokenizer, other.tokenizer_2, made["unet"],
        other.scheduler, torch.float16,
    )  # fmt: skip
    maker = TextToImage(other if narrow else pipeline)
    made = maker.residence.parts if narrow else made
    sizes = {name: module_bytes(part) for name, part in made.items()}
    assert set(maker.residence.parts) == set(sizes)
    plain, _ = walked(maker)
    card, residence = on_card(maker, 2**40)
    residence._streamed = "unet"  # at full size it is the largest in any case
    for free, way, most in (
        (2**40, WHOLE, sum(sizes.values())),
        (max(sizes.values()) + WORKING + RESERVE, TURNS, max(sizes.values())),
        (0, LAYERS, max(size for name, size in sizes.items() if name != "unet")),
    ):
        card.free, card.most = free, 0
        assert torch.equal(walked(maker)[0], plain)
        assert (residence.way, card.most) == (way, most)
        residence.leave()
        assert card.there == set()


def test_at_full_size_the_networks_have_the_published_number_of_weights() -> None:
    counts = {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840}
    with torch.device("meta"):
        made = {name: make() for name, make in networks(FULL).items()}
    assert {name: sum(p.numel() for p in network.parameters()) for name, network in made.items()} == counts
    size = PUBLISHED[PACK].bytes
    assert size is not None
    assert size == pytest.approx(2 * sum(counts.values()), rel=0.002), "in half precision"
