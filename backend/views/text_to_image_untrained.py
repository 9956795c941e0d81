"""Stable Diffusion XL with random weights: at full size to be measured, small to be tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from backend.views.mvdream_loading import as_loaded
from backend.views.mvdream_untrained import byte_tokenizer
from backend.views.text_to_image_loading import PicturePipeline, assembled


@dataclass(frozen=True)
class Sizes:
    """Of the parts. latent: the side of a picture's latent; words: the widths of the two text encoders; attention:
    transformer layers a stage; heads: their heads; sizes_width: of each of the six numbers that tell the U-Net of the
    picture's size."""

    latent: int
    unet_channels: tuple[int, ...]
    attention: tuple[int, ...]
    heads: tuple[int, ...]
    sizes_width: int
    words: tuple[int, int]
    text_layers: tuple[int, int]
    text_heads: tuple[int, int]
    vocabulary: int
    vae_channels: tuple[int, ...]
    vae_groups: int
    unet_groups: int = 32


FULL = Sizes(  # the published ones
    latent=128, unet_channels=(320, 640, 1280), attention=(1, 2, 10), heads=(5, 10, 20), sizes_width=256,
    words=(768, 1280), text_layers=(12, 32), text_heads=(12, 20), vocabulary=49_408,
    vae_channels=(128, 256, 512, 512), vae_groups=32,
)  # fmt: skip


def networks(sizes: Sizes) -> dict[str, Callable[[], Any]]:
    """How each part with weights is made, by its sub-folder's name."""
    stages, decoder = len(sizes.unet_channels), len(sizes.vae_channels)
    attending = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
    unet: dict[str, Any] = {
        "sample_size": sizes.latent, "block_out_channels": sizes.unet_channels, "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", *(attending[0],) * (stages - 1)),
        "up_block_types": (*(attending[1],) * (stages - 1), "UpBlock2D"),
        "transformer_layers_per_block": sizes.attention, "attention_head_dim": sizes.heads,
        "cross_attention_dim": sum(sizes.words), "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": sizes.sizes_width, "norm_num_groups": sizes.unet_groups,
        "projection_class_embeddings_input_dim": 6 * sizes.sizes_width + sizes.words[1],
    }  # fmt: skip
    vae: dict[str, Any] = {
        "block_out_channels": sizes.vae_channels, "norm_num_groups": sizes.vae_groups, "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * decoder, "up_block_types": ("UpDecoderBlock2D",) * decoder,
        "scaling_factor": 0.13025, "sample_size": sizes.latent * 2 ** (decoder - 1), "force_upcast": True,
    }  # fmt: skip
    texts = [
        CLIPTextConfig(
            vocab_size=sizes.vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=depth,
            num_attention_heads=heads, projection_dim=width, hidden_act=act, bos_token_id=sizes.vocabulary - 2,
            eos_token_id=sizes.vocabulary - 1,
        )
        for width, depth, heads, act in zip(
            sizes.words, sizes.text_layers, sizes.text_heads, ("quick_gelu", "gelu"), strict=True
        )
    ]  # fmt: skip
    return {
        "vae": lambda: AutoencoderKL(**vae),
        "text_encoder": lambda: CLIPTextModel(texts[0]),
        "text_encoder_2": lambda: CLIPTextModelWithProjection(texts[1]),
        "unet": lambda: UNet2DConditionModel(**unet),
    }


def untrained_pipeline(sizes: Sizes = FULL, dtype: torch.dtype = torch.float32, seed: int = 0) -> PicturePipeline:
    """The pipeline with random weights on the CPU, which lie in memory as the published ones would."""
    made = networks(sizes)
    stored = torch.float16 if dtype == torch.float32 else dtype
    chance = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text, text_2 = (as_loaded(made[name](), stored) for name in ("text_encoder", "text_encoder_2"))
    vae = _filled(made["vae"], torch.float32, chance)
    tokenizer, tokenizer_2 = byte_tokenizer(sizes.vocabulary), byte_tokenizer(sizes.vocabulary)
    unet = _filled(made["unet"], stored, chance)
    return assembled(vae, text, text_2, tokenizer, tokenizer_2, unet, released_scheduler(), dtype)


def released_scheduler() -> EulerDiscreteScheduler:
    """With the settings of the published scheduler_config.json."""
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )


def _filled(make: Callable[[], Any], dtype: torch.dtype, chance: torch.Generator) -> Any:
    """A network without buffers whose weights never lie in memory in float32: at full size they would take 10 GB."""
    with torch.device("meta"):
        network = make()
    network = as_loaded(network, dtype).to_empty(device="cpu")
    for parameter in network.parameters():
        if parameter.ndim > 1:
            fan = parameter[0].numel()
            parameter.data.normal_(std=fan**-0.5, generator=chance)
        else:
            parameter.data.fill_(0.0)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.weight.data.fill_(1.0)
    return network
