"""MVDream and ImageDream as a diffusers pipeline: Stable Diffusion 2.1's parts round the multi-view U-Net, and sampling
as the released code does it (DDIM, guidance on all views at once, an empty picture as the picture's negative).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModel

from backend.cameras import look_at, orbit_positions
from backend.nets.multiview_unet import MultiViewUNet
from backend.views.generated import checked_latents

VIEWS = 4
MOST_STEPS = 999  # of 1,000 in training; the schedule begins one later than it counts


def camera_vectors(elevation: float, first_azimuth: float = 0.0, empty: bool = False) -> Tensor:
    """[V, 16]: what the U-Net is told of four cameras a quarter turn apart: camera_to_world at distance 1, +Z up.

    elevation in degrees, positive above. (LGM's copy of the code passes it on to cameras whose positive is below; the
    model was trained as here.) empty: append the zeros that stand for the picture itself.
    """
    azimuths = first_azimuth + torch.arange(VIEWS) * (360.0 / VIEWS)
    positions = orbit_positions(azimuths, torch.full((VIEWS,), elevation), 1.0)
    pose = look_at(positions, torch.zeros_like(positions))
    x, y, z, last = pose.unbind(1)
    vectors = torch.stack([x, -z, y, last], 1).flatten(1)
    return torch.cat([vectors, vectors.new_zeros(1, 16)]) if empty else vectors


class MultiViewPipeline(DiffusionPipeline):
    """Words, or a picture (and words), to four pictures [4, 3, S, S] in [0, 1] of azimuths 0, 90, 180 and 270.

    image_encoder and feature_extractor are None for MVDream, whose U-Net takes no picture.
    """

    _optional_components = ["image_encoder", "feature_extractor"]  # noqa: RUF012
    model_cpu_offload_seq = "text_encoder->image_encoder->unet->vae"  # type: ignore[assignment]

    vae: Any
    text_encoder: Any
    tokenizer: Any
    unet: Any
    scheduler: Any
    image_encoder: Any
    feature_extractor: Any
    home: torch.device | None = None  # where it computes, if its parts are brought there by something else

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: MultiViewUNet,
        scheduler: DDIMScheduler,
        image_encoder: CLIPVisionModel | None = None,
        feature_extractor: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
            image_encoder=image_encoder, feature_extractor=feature_extractor,
        )  # fmt: skip
        self.scale = 2 ** (len(self.vae.config["block_out_channels"]) - 1)  # pixels a latent

    @property
    def _execution_device(self) -> torch.device:
        return self.home or super()._execution_device

    @property
    def pictured(self) -> bool:
        """Whether it is ImageDream."""
        return bool(self.unet.config["ip_dim"])

    @property
    def size(self) -> int:
        """The side of its pictures."""
        return self.unet.config["image_size"] * self.scale

    def encode_words(self, prompts: list[str]) -> Tensor:
        """[P, L, C]; what does not fit into the encoder's tokens is left out."""
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self._token_count(), return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids.to(self._execution_device))[0]

    def ignored_words(self, prompt: str) -> str:
        """The end of a prompt that does not fit."""
        tokens = self.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        return self.tokenizer.decode(tokens[self._token_count() - 2 :]).strip()

    def _token_count(self) -> int:
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)

    def encode_picture(self, rgb: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A picture rgb [3, S, S] in [0, 1] as CLIP's tokens [1, N, width] and as a latent [1, 4, h, w].

        The tokens are those before the last layer, as ImageDream was trained on.
        """
        device = self._execution_device
        pixels = (rgb * 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        inputs = self.feature_extractor(images=pixels, return_tensors="pt").pixel_values
        seen = self.image_encoder(inputs.to(device, self.image_encoder.dtype), output_hidden_states=True)
        small = torch.nn.functional.interpolate(2 * rgb[None] - 1, (self.size, self.size), mode="bilinear")
        posterior = self.vae.encode(small.to(device, self.vae.dtype)).latent_dist
        return seen.hidden_states[-2], posterior.sample(generator) * self.vae.config["scaling_factor"]

    def denoise(
        self,
        latents: Tensor,
        words: Tensor,
        camera: Tensor,
        steps: int,
        guidance: float,
        picture: Tensor | None = None,
        picture_latent: Tensor | None = None,
    ) -> Generator[tuple[int, Tensor, Tensor], None, Tensor]:
        """Latents [V, 4, h, w] from noise to an object's views. After each step (its index, the latents, and what they
        are guessed to become) is yielded.

        words [G, L, C]: the prompt's, or the negative's and the prompt's (G = 2), between which `guidance` goes on;
        picture [G, N, width] and picture_latent [G, 4, h, w] likewise. camera [V, 16].
        """
        self.scheduler.set_timesteps(steps, device=latents.device)
        latents = latents.float() * self.scheduler.init_noise_sigma
        groups = len(words)
        for index, time in enumerate(self.scheduler.timesteps):
            scaled = self.scheduler.scale_model_input(latents, time)
            noise = self.unet(
                scaled.expand(groups, *latents.shape), time.expand(groups), words, camera, picture, picture_latent
            ).float()
            if groups == 2:
                noise = noise[:1] + guidance * (noise[1:] - noise[:1])
            step = self.scheduler.step(noise[0], time, latents)
            latents = step.prev_sample
            yield index, latents, step.pred_original_sample
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """[V, 3, S, S] in [0, 1] on the CPU; one at a time, which takes a fraction of the memory."""
        scaled = (latents / self.vae.config["scaling_factor"]).to(self.vae.dtype)
        pictures = [self.vae.decode(one[None]).sample.float().cpu() for one in scaled]
        return (torch.cat(pictures) / 2 + 0.5).clamp(0, 1)

    @torch.inference_mode()
    def walk(
        self,
        prompt: str,
        image: Tensor | None = None,
        *,
        negative_prompt: str = "",
        steps: int = 30,
        guidance: float = 5.0,
        elevation: float = 0.0,
        seed: int = 0,
    ) -> Generator[tuple[int, Tensor, Tensor], None, Tensor]:
        """From the request to the pictures; yields as `denoise` does, of the four views only.

        image: [3, S, S] on white, for ImageDream. The same seed gives the same noise on every device.
        """
        device, chance = self._execution_device, torch.Generator().manual_seed(seed)
        guided = guidance != 1.0
        words = self.encode_words([negative_prompt, prompt] if guided else [prompt])
        tokens = latent = None
        if image is not None:
            tokens, latent = self.encode_picture(image, chance)
            if guided:  # the negative of a picture is an empty one
                tokens, latent = (torch.cat([torch.zeros_like(x), x]) for x in (tokens, latent))
        side = self.size // self.scale
        noise = torch.randn(VIEWS + self.pictured, self.unet.config["in_channels"], side, side, generator=chance)
        camera = camera_vectors(elevation, empty=self.pictured).to(device)
        denoising = self.denoise(noise.to(device), words, camera, steps, guidance, tokens, latent)
        latents = noise
        for index, latents, clean in denoising:
            yield index, latents[:VIEWS], clean[:VIEWS]
        pictures = self.decode(checked_latents(latents[:VIEWS]))
        self.maybe_free_model_hooks()
        return pictures

    def __call__(
        self,
        prompt: str = "",
        image: Tensor | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        **options: Any,
    ) -> Tensor:
        """`walk` to its end. callback_on_step_end(pipeline, step, timestep, {"latents": ...}) is called after each
        step, as other pipelines do; what it returns is not used."""
        walk = self.walk(prompt, image, **options)
        while True:
            try:
                index, latents, _ = next(walk)
            except StopIteration as end:
                return end.value
            if callback_on_step_end is not None:
                callback_on_step_end(self, index, self.scheduler.timesteps[index], {"latents": latents})
