"""Multi-view pipelines with random weights: at full size to be measured, small to be tested."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModel

from backend.nets.multiview_unet import PICTURE_WIDTH, MultiViewUNet
from backend.views.mvdream_loading import CLIPImageProcessor, as_loaded
from backend.views.mvdream_pipeline import MultiViewPipeline

PICTURE_TOKENS = 16


@dataclass(frozen=True)
class Sizes:
    """Of a pipeline's parts. latent: the side of a view's latent; picture: of what CLIP sees, in pixels."""

    latent: int
    unet_channels: int
    head_channels: int
    words: int
    text_layers: int
    vocabulary: int
    vae_channels: tuple[int, ...]
    vae_groups: int
    picture: int
    picture_layers: int


FULL = Sizes(32, 320, 64, 1024, 23, 49_408, (128, 256, 512, 512), 32, 224, 32)  # the published ones


def untrained_pipeline(
    pictured: bool, sizes: Sizes = FULL, dtype: torch.dtype = torch.float32, seed: int = 0
) -> MultiViewPipeline:
    """MVDream, or ImageDream where it is `pictured`, with random weights on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stages = len(sizes.vae_channels)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * stages, up_block_types=("UpDecoderBlock2D",) * stages,
            block_out_channels=sizes.vae_channels, norm_num_groups=sizes.vae_groups, layers_per_block=2,
        )  # fmt: skip
        text = CLIPTextConfig(
            vocab_size=sizes.vocabulary, hidden_size=sizes.words, intermediate_size=4 * sizes.words,
            num_hidden_layers=sizes.text_layers, num_attention_heads=sizes.words // 64 or 1, hidden_act="gelu",
            bos_token_id=sizes.vocabulary - 2, eos_token_id=sizes.vocabulary - 1, pad_token_id=0,
        )  # fmt: skip
        unet = MultiViewUNet(
            image_size=sizes.latent, model_channels=sizes.unet_channels, num_head_channels=sizes.head_channels,
            context_dim=sizes.words, ip_dim=PICTURE_TOKENS if pictured else 0,
        )  # fmt: skip
        image_encoder = feature_extractor = None
        if pictured:
            vision = CLIPVisionConfig(
                hidden_size=PICTURE_WIDTH, intermediate_size=4 * PICTURE_WIDTH if sizes.picture_layers == 32 else 64,
                num_hidden_layers=sizes.picture_layers, num_attention_heads=16, hidden_act="gelu",
                image_size=sizes.picture, patch_size=14,
            )  # fmt: skip
            image_encoder = CLIPVisionModel(vision)
            side = sizes.picture
            feature_extractor = CLIPImageProcessor(
                size={"shortest_edge": side}, crop_size={"height": side, "width": side}
            )
        modules = [vae, CLIPTextModel(text), unet, *([image_encoder] if image_encoder is not None else [])]
    for module in modules:
        as_loaded(module, torch.float32 if module is vae and dtype == torch.bfloat16 else dtype)
    return MultiViewPipeline(
        vae, modules[1], byte_tokenizer(sizes.vocabulary), unet, released_scheduler(), image_encoder, feature_extractor
    )


def released_scheduler() -> DDIMScheduler:
    """With the settings of the published scheduler_config.json."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False,
        set_alpha_to_one=False,
    )  # fmt: skip


def byte_tokenizer(vocabulary: int) -> CLIPTokenizer:
    """A tokenizer that knows single letters only: the real vocabulary comes with the weights."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printed] + [chr(256 + index) for index in range(256 - len(printed))]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += [f"unused{index}</w>" for index in range(vocabulary - 2 - len(words))]
    words += ["<|startoftext|>", "<|endoftext|>"]
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": words[-2],
        "eos_token": words[-1],
        "unk_token": words[-1],
        "pad_token": "!",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}), "utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n", "utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
