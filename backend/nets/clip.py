"""CLIP's picture encoder (ViT-H/14 as OpenCLIP trained it), which image-to-3D diffusion models condition on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

PICTURE_ENCODER: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14, "projection_dim": 1024, "hidden_act": "gelu",
}  # fmt: skip


def picture_encoder(config: dict[str, Any]) -> nn.Module:
    """The encoder with random weights; on the meta device its table of positions is real, as no file holds it."""
    network = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
    embeddings = network.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device="cpu")[None]
    return network
