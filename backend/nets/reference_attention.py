"""Reference attention (Zero123++, arXiv 2310.15110, section 2.2): a U-Net that looks at a picture while it denoises.

A first pass over the picture's latent, noised as far as what is denoised, keeps the keys and values of every
self-attention; in the second pass each of them attends to its own tokens and to the kept ones. Text conditioning is
untouched, and there are no weights beside the U-Net's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class ReferenceAttention:
    """A diffusers attention processor that keeps what one pass attends to for the next.

    keep: whether the pass that runs now is the one over the reference.
    """

    def __init__(self) -> None:
        self.keep = False
        self.kept: tuple[Tensor, Tensor] | None = None

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """hidden_states [B, tokens, C]; the same shape back. attn: the diffusers Attention this serves."""

        def split(tokens: Tensor) -> Tensor:
            return tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query, key, value = (split(layer(hidden_states)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        if self.keep:
            # The projections of the reference's tokens, not the tokens: the second pass need not project them again.
            self.kept = key, value
        elif self.kept is not None:
            key, value = torch.cat([key, self.kept[0]], 2), torch.cat([value, self.kept[1]], 2)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return attn.to_out[0](attended.to(hidden_states.dtype))


class ReferenceUnet:
    """A diffusers UNet2DConditionModel whose self-attentions see a reference; no module, as it has no weights."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet
        self.processors: list[ReferenceAttention] = []
        processors = {}
        for name, processor in unet.attn_processors.items():
            if name.endswith("attn1.processor"):
                processor = ReferenceAttention()
                self.processors.append(processor)
            processors[name] = processor
        unet.set_attn_processor(processors)

    def __call__(self, latents: Tensor, reference: Tensor, time: Tensor, states: Tensor) -> Tensor:
        """The U-Net's output [B, 4, H, W] for latents [B, 4, H, W] beside a reference [B, 4, h, w].

        time: one number; states [B, tokens, C]: what the cross-attentions of both passes see.
        """
        try:
            for processor in self.processors:
                processor.keep = True
            self.unet(reference, time, encoder_hidden_states=states, return_dict=False)
            for processor in self.processors:
                processor.keep = False
            return self.unet(latents, time, encoder_hidden_states=states, return_dict=False)[0]
        finally:
            for processor in self.processors:
                processor.keep, processor.kept = False, None
