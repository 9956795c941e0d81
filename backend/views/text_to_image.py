"""Words to a picture, for generators of views that see pictures alone: Stable Diffusion XL (arXiv 2307.01952).

Why this one, of those whose licence lets an artist use what it makes: its networks are published in half precision as
.safetensors files of 7 GB and take turns in a GPU's memory, where newer ones (FLUX.2 klein, Z-Image) want 13 GB of it
and more; it is told what not to show as well as what to; and diffusers has kept its pipeline for longest. Which model
it is, is said here, in `text_to_image_loading.py` and in the recipes' `WORDS_TO_PICTURE`, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from backend.datatypes import Step
from backend.device import inference_dtype
from backend.errors import BadInput
from backend.memory import NEEDS
from backend.views.folders import check_libraries
from backend.views.generated import checked_latents
from backend.views.residence import Residence
from backend.views.stepping import stepped

TITLE, PACK = "Stable Diffusion XL", "sdxl"
# The object as the generators of views were shown theirs: whole, from the front, before nothing, with no light of its
# own that would be baked into the texture.
SETTING = "one single whole object, centered, wide margins, front view, soft even light, plain {background} background"
NEGATIVE_PROMPT = (
    "cropped, cut off, out of frame, close-up, several objects, duplicate, collage, person holding it, scenery, busy "
    "background, patterned background, harsh shadow, reflection, text, watermark, frame, blurry, deformed"
)
MOST_STEPS = 1000
_WHITE_THINGS = re.compile(r"\b(white|ivory|snow\w*|ice|milk\w*|paper|porcelain|marble|polar|ghosts?)\b", re.IGNORECASE)
_PREVIEW_SIDE = 256  # pixels
# Colours of the four channels of its latents: a linear guess at the decoder.
_LATENT_COLORS = (
    (0.3651, 0.4232, 0.4341),
    (-0.2533, -0.0042, 0.1068),
    (0.1076, 0.1111, -0.0362),
    (-0.3165, -0.2492, -0.2188),
)
_LATENT_BIAS = (0.1084, -0.0175, -0.0011)


class TextToImage:
    """The pipeline on a device. image_size: the side of its pictures."""

    def __init__(self, pipeline: Any, device: str = "cpu") -> None:
        """pipeline: as `text_to_image_loading.load_pipeline` gives it."""
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)
        if device == "cuda":
            for module in (pipeline.unet, pipeline.vae):
                module.to(memory_format=torch.channels_last)
        pipeline.home = torch.device(device)
        parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
        need = NEEDS[PACK]
        self.residence = Residence(parts, device, need.beside(inference_dtype(device, torch.float16).itemsize))

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> TextToImage:
        """A folder as published.

        Raises MissingWeights where something is missing, damaged or of another shape, BadInput where a library is not
        installed.
        """
        check_libraries()
        from backend.views.text_to_image_loading import load_pipeline

        return cls(load_pipeline(folder, inference_dtype(device, torch.float16)), device)

    @classmethod
    def untrained(cls, device: str = "cpu") -> TextToImage:
        """At full size with random weights: for trying and measuring the way, never for a result."""
        check_libraries()
        from backend.views import text_to_image_untrained as made

        return cls(made.untrained_pipeline(made.FULL, inference_dtype(device, torch.float16)), device)

    @property
    def image_size(self) -> int:
        return int(self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor)

    def notes(self, prompt: str) -> list[str]:
        """Warns of words beyond what the text encoders read."""
        _, ignored = self._fitted(prompt)
        return [f"The prompt is longer than {TITLE} can take in; ignored: '{ignored[:80]}'."] if ignored else []

    def wording(self, prompt: str) -> str:
        """What the model is asked for: the prompt, and the setting that generators of views want."""
        background = "gray" if _WHITE_THINGS.search(prompt) else "white"  # what is white must stand out from it
        return f"{self._fitted(prompt)[0]}, {SETTING.format(background=background)}"

    def generate(
        self, prompt: str, *, seed: int = 0, steps: int = 30, guidance: float = 7.0
    ) -> Generator[Step, None, Tensor]:
        """A picture [3, S, S] in [0, 1] of one object, on the CPU.

        Yields a Step with a preview [1, 4, h, w] after each denoising step; closing it ends the sampling there. The
        same seed gives the same noise on every device. Raises BadInput.
        """
        if not prompt.strip():
            raise BadInput("There is no prompt to make a picture of.", "Type what to make.")
        if not 1 <= steps <= MOST_STEPS:
            raise BadInput(f"{TITLE} samples in 1 to {MOST_STEPS} steps, not {steps}.", "Ask for about 30.")
        self.residence.enter()
        message = "Imagining a picture of it"

        def sample(tell: Callable[[tuple[int, Tensor]], None]) -> Tensor:
            return self._sample(prompt, seed, steps, guidance, tell)

        walk = stepped(sample)
        try:
            while True:
                try:
                    index, clean = next(walk)
                except StopIteration as end:
                    picture: Tensor = end.value
                    break
                # The last step's picture is not decoded yet: the stage is not over.
                yield Step(index + 1, steps + 1, message, latent_preview(clean))
        finally:
            walk.close()
        yield Step(steps + 1, steps + 1, message)
        return picture

    def _sample(
        self, prompt: str, seed: int, steps: int, guidance: float, tell: Callable[[tuple[int, Tensor]], None]
    ) -> Tensor:
        pipeline = self.pipeline
        side = pipeline.unet.config.sample_size
        # Drawn here, not by the pipeline, whose numbers depend on the weights' dtype.
        noise = torch.randn(
            1, pipeline.unet.config.in_channels, side, side, generator=torch.Generator().manual_seed(seed)
        )
        before = noise

        def on_step_end(_pipeline: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal before
            latents = tensors["latents"].float().cpu()
            sigmas = pipeline.scheduler.sigmas
            if step == 0:
                before = noise * float(pipeline.scheduler.init_noise_sigma)
            tell((step, clean_guess(before, latents, float(sigmas[step]), float(sigmas[step + 1]))))
            before = latents
            return {}

        made = pipeline(
            prompt=self.wording(prompt),
            negative_prompt=NEGATIVE_PROMPT if guidance > 1.0 else None,
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=noise.to(pipeline.text_encoder_2.dtype),
            height=self.image_size,
            width=self.image_size,
            output_type="latent",
            callback_on_step_end=on_step_end,
        )
        # The pipeline would decode in half precision on some devices, and black is all that comes of it.
        latents = checked_latents(made.images).float() / pipeline.vae.config.scaling_factor
        with torch.inference_mode():
            return (pipeline.vae.decode(latents).sample[0].cpu() / 2 + 0.5).clamp(0, 1)

    def _fitted(self, prompt: str) -> tuple[str, str]:
        """As much of the prompt as leaves room for the setting, and the rest."""
        tokenizer = self.pipeline.tokenizer
        most = min(tokenizer.model_max_length, self.pipeline.text_encoder.config.max_position_embeddings) - 2
        words, setting = (
            tokenizer(text, add_special_tokens=False, verbose=False).input_ids for text in (prompt, ", " + SETTING)
        )
        room = max(most - len(setting), most // 2)
        if len(words) <= room:
            return prompt.strip(), ""
        return tokenizer.decode(words[:room]).strip(), tokenizer.decode(words[room:]).strip()


def clean_guess(before: Tensor, after: Tensor, sigma: float, next_sigma: float) -> Tensor:
    """What latents were guessed to become in an Euler step from `before`, with noise sigma, to `after`, with less."""
    return before - (after - before) * (sigma / (next_sigma - sigma))


def latent_preview(latents: Tensor) -> Tensor:
    """[V, 4, h, w] RGBA on the CPU, of latents [V, 4, h, w] times the VAE's factor."""
    colors, bias = latents.new_tensor(_LATENT_COLORS), latents.new_tensor(_LATENT_BIAS)
    rgb = (torch.einsum("vchw,cd->vdhw", latents, colors) + bias[:, None, None]) / 2 + 0.5
    scale = max(1, round(_PREVIEW_SIDE / rgb.shape[-1]))
    rgb = F.interpolate(rgb.clamp(0, 1), scale_factor=scale, mode="bilinear")
    return torch.cat([rgb, torch.ones_like(rgb[:, :1])], 1)
