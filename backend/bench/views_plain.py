"""The view generators as the released code and plain diffusers compute them: what `bench views` compares with."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor
from torch.nn import functional as F

from backend.nets import multiview_attention
from backend.nets.reference_attention import ReferenceAttention
from backend.nets.sv3d import Condition, Sv3d
from backend.views.mvdream import MultiViewGenerator
from backend.views.mvdream_pipeline import MultiViewPipeline
from backend.views.sv3d import Sv3dGenerator
from backend.views.zero123plus import Zero123PlusGenerator


def make_plain(generator: Any) -> None:
    """Leave out what saves time or memory: torch's own layout of tensors, and for each model what is said below."""
    holder: Any = generator.pipeline if isinstance(generator, MultiViewGenerator) else generator.model
    for network in (holder.unet, holder.vae):
        network.to(memory_format=torch.contiguous_format)
        for parameter in network.parameters():
            parameter.data = parameter.data.contiguous()
    if isinstance(generator, MultiViewGenerator):
        _plain_multiview(holder)
    elif isinstance(generator, Zero123PlusGenerator):
        _plain_zero123plus(holder)
    elif isinstance(generator, Sv3dGenerator):
        _plain_sv3d(holder)


def _plain_multiview(pipeline: MultiViewPipeline) -> None:
    """Attention in one piece, and all views decoded at once."""
    multiview_attention.MOST_SCORES = 2**60

    def decode(self: MultiViewPipeline, latents: Tensor) -> Tensor:
        scaled = (latents / self.vae.config["scaling_factor"]).to(self.vae.dtype)
        return (self.vae.decode(scaled).sample.float().cpu() / 2 + 0.5).clamp(0, 1)

    pipeline.decode = MethodType(decode, pipeline)  # type: ignore[method-assign]


class _Projected:
    """The reference's tokens kept, and projected to keys and values again in the second pass."""

    def __init__(self, flags: ReferenceAttention) -> None:
        self.flags = flags
        self.tokens: Tensor | None = None

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        context = hidden_states
        if self.flags.keep:
            self.tokens = hidden_states
        elif self.tokens is not None:
            context, self.tokens = torch.cat([hidden_states, self.tokens], 1), None

        def split(tokens: Tensor) -> Tensor:
            return tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query, key, value = split(attn.to_q(hidden_states)), split(attn.to_k(context)), split(attn.to_v(context))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return attn.to_out[0](attended.to(hidden_states.dtype))


def _plain_zero123plus(model: Any) -> None:
    """The reference's keys and values made anew in the second pass."""
    processors = {
        name: _Projected(processor) if isinstance(processor, ReferenceAttention) else processor
        for name, processor in model.unet.attn_processors.items()
    }
    model.unet.set_attn_processor(processors)


def _plain_sv3d(model: Sv3d) -> None:
    """Both halves of the guidance at once, queries and keys also for a single token, and 14 frames decoded at once, as
    released."""
    model.unet.set_attn_processor(AttnProcessor2_0())

    def denoised(self: Sv3d, noisy: Tensor, sigma: float, condition: Condition, guidance: Tensor) -> Tensor:
        dtype, shrink = self.unet.dtype, (sigma**2 + 1) ** -0.5
        shown = torch.tensor([0.0, 1.0], device=noisy.device)[:, None, None, None, None]
        picture = (shown * condition.latent).expand(2, len(noisy), -1, -1, -1)
        latents = torch.cat([(noisy * shrink).expand(2, *noisy.shape), picture], 2)
        level = 0.25 * torch.tensor(sigma, device=noisy.device).log()
        context, vector = shown[:, :, 0, 0] * condition.context, condition.vector.expand(2, -1, -1)
        output = self.unet(latents.to(dtype), level, context.to(dtype), vector).float()
        without, with_picture = noisy * shrink**2 - output * sigma * shrink
        return without + guidance[:, None, None, None] * (with_picture - without)

    def decode(self: Sv3d, latents: Tensor) -> Tensor:
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return torch.cat([self.vae.decode(part).sample.float() for part in scaled.split(14)])

    model.denoised = MethodType(denoised, model)  # type: ignore[method-assign]
    model.decode = MethodType(decode, model)  # type: ignore[method-assign]
