"""Zero123++'s networks at their published size, as diffusers and transformers take them."""

from __future__ import annotations

from typing import Any

from backend.nets.clip import PICTURE_ENCODER

UNET: dict[str, Any] = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "use_linear_projection": True,
    "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),  # of this class, the numbers of heads
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
VAE: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "scaling_factor": 0.18215,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
    "num_attention_heads": 16, "max_position_embeddings": 77, "hidden_act": "gelu", "projection_dim": 512,
}  # fmt: skip
COMPONENTS = {"unet": UNET, "vae": VAE, "text_encoder": TEXT_ENCODER, "vision_encoder": PICTURE_ENCODER}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear",
    "prediction_type": "v_prediction", "steps_offset": 1,
}  # fmt: skip
