"""SV3D's U-Net (arXiv 2403.12008): Stable Video Diffusion's, told of every frame from where it looks."""

from __future__ import annotations

from typing import Any

from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from torch import Tensor

_EPS = 1e-5  # of all norms in residual blocks; diffusers' own for this network is 1e-6


class OneTokenAttention:
    """A diffusers attention processor for cross-attention to a single token.

    A softmax over one element is 1: whatever asks, the answer is the token's value, and no query or key is computed.
    """

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """hidden_states [B, tokens, C], encoder_hidden_states [B, 1, D]; [B, 1, C], the same for every token."""
        return attn.to_out[0](attn.to_v(encoder_hidden_states))


class Sv3dUnet(UNetSpatioTemporalConditionModel):
    """diffusers' network with a vector of conditions a frame instead of one a clip, and the released norms."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        for name, module in self.named_modules():
            if "res_block.norm" in name:
                module.eps = _EPS  # type: ignore[assignment]
        processors: dict[str, Any] = dict(self.attn_processors)
        processors |= {name: OneTokenAttention() for name in processors if name.endswith("attn2.processor")}
        self.set_attn_processor(processors)

    def forward(self, latents: Tensor, noise_level: Tensor, context: Tensor, vector: Tensor) -> Tensor:  # type: ignore[override]
        """The output [B, T, 4, h, w] for latents [B, T, 8, h, w]; h and w are multiples of 8.

        noise_level: one number; context [B, 1, C]: what cross-attention sees; vector [B, T, D]: of every frame.
        """
        batch, frames = latents.shape[:2]
        time = self.time_proj(noise_level.reshape(1)).to(latents.dtype)
        embedding = self.time_embedding(time) + self.add_embedding(vector.to(latents.dtype).flatten(0, 1))
        context = context.repeat_interleave(frames, 0)
        shared = {"temb": embedding, "image_only_indicator": latents.new_zeros(batch, frames)}

        def extra(block: Any) -> dict[str, Any]:
            return shared | ({"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {})

        sample = self.conv_in(latents.flatten(0, 1))
        skips = [sample]
        for block in self.down_blocks:
            sample, more = block(hidden_states=sample, **extra(block))
            skips += more
        sample = self.mid_block(hidden_states=sample, encoder_hidden_states=context, **shared)
        ups: Any = self.up_blocks
        for block in ups:
            count = len(block.resnets)
            sample = block(hidden_states=sample, res_hidden_states_tuple=tuple(skips[-count:]), **extra(block))
            del skips[-count:]
        sample = self.conv_out(self.conv_act(self.conv_norm_out(sample)))
        return sample.unflatten(0, (batch, frames))
