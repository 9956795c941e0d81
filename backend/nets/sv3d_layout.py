"""Where SV3D's published single file keeps each tensor of its three networks, and how it has it there.

The file is that of the `generative-models` code: OpenCLIP's picture encoder, an encoder and a decoder of pictures that
belong to two different autoencoders, and the U-Net. The networks' own names are those of diffusers and transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LEVELS = 4  # of the U-Net and the autoencoder
# In the file, but nothing reads it: the text half of CLIP, and the halves of the autoencoders that are not used.
UNUSED = ("conditioner.embedders.0.open_clip.model.", "conditioner.embedders.1.encoder.", "first_stage_model.")
_UNET, _CLIP = "model.diffusion_model.", "conditioner.embedders.0.open_clip.model.visual."
_ENCODER, _DECODER = "conditioner.embedders.1.encoder.", "first_stage_model."

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_RESIDUAL = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_CLIP_ENDS = {
    "embeddings.class_embedding": "class_embedding", "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight", "pre_layrnorm": "ln_pre", "post_layernorm": "ln_post",
}  # fmt: skip
_CLIP_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A tensor in the file. third: which third of its rows (of a joint projection for queries, keys and values);
    transposed, kernel: it is stored transposed, or as a convolution's kernel of one pixel."""

    key: str
    third: int | None = None
    transposed: bool = False
    kernel: bool = False

    def take(self, stored: Tensor) -> Tensor:
        """The network's tensor of the file's."""
        if self.third is not None:
            return stored.chunk(3)[self.third]
        if self.transposed:
            return stored.T
        return stored[..., 0, 0] if self.kernel else stored

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the file of a tensor that has this shape in the network."""
        if self.third is not None:
            return (3 * shape[0], *shape[1:])
        if self.transposed:
            return shape[::-1]
        return (*shape, 1, 1) if self.kernel else shape


def place(component: str, name: str) -> Place:
    """Where the file has a tensor of the "unet", the "vae" or the "vision_encoder"."""
    if component == "unet":
        return Place(_UNET + _unet_key(name))
    if component == "vae":
        return _vae_place(name)
    return _clip_place(name)


def places(networks: Mapping[str, nn.Module]) -> dict[tuple[str, str], Place]:
    """Of all the networks' tensors, by component and name."""
    return {
        (component, name): place(component, name)
        for component, network in networks.items()
        for name in network.state_dict()
    }


def published_shapes(networks: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the file's tensors that the networks read."""
    states = {component: network.state_dict() for component, network in networks.items()}
    return {
        found.key: found.stored_shape(tuple(states[component][name].shape))
        for (component, name), found in places(networks).items()
    }


def published_state(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The networks' tensors as the file has them."""
    stored: dict[str, Tensor] = {}
    thirds: dict[str, list[Tensor]] = {}
    states = {component: network.state_dict() for component, network in networks.items()}
    for (component, name), found in sorted(places(networks).items(), key=lambda item: item[1].third or 0):
        tensor = states[component][name]
        if found.third is not None:
            thirds.setdefault(found.key, []).append(tensor)
        elif found.transposed:
            stored[found.key] = tensor.T
        else:
            stored[found.key] = tensor[..., None, None] if found.kernel else tensor
    return stored | {key: torch.cat(parts) for key, parts in thirds.items()}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """The name with the beginning that the table has replaced."""
    for mine, theirs in names.items():
        if name == mine or name.startswith(mine + "."):
            return theirs + name[len(mine) :]
    return name


def _unet_key(name: str) -> str:
    found = re.match(r"(down|up|mid)_block(?:s\.(\d))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name)
    if found is None:
        return _renamed(name, _UNET_ENDS)
    way, level, kind, index, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return f"input_blocks.{3 * level + 3}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":  # the deepest level has no transformer before it
        return f"output_blocks.{3 * level + 2}.{1 if level == 0 else 2}.{rest}"
    if way == "mid":
        block = f"middle_block.{2 * index if kind == 'resnets' else 1}"
    else:
        number = 3 * level + index + (way == "down")
        block = f"{'input' if way == 'down' else 'output'}_blocks.{number}.{int(kind == 'attentions')}"
    if kind == "resnets":
        for mine, theirs in (("spatial_res_block.", ""), ("temporal_res_block.", "time_stack.")):
            if rest.startswith(mine):
                rest = theirs + _renamed(rest.removeprefix(mine), _RESIDUAL)
    else:
        names = {"temporal_transformer_blocks": "time_stack"}
        names |= {"time_pos_embed.linear_1": "time_pos_embed.0", "time_pos_embed.linear_2": "time_pos_embed.2"}
        rest = _renamed(rest, names)
    return f"{block}.{rest}"


def _vae_place(name: str) -> Place:
    prefix = _DECODER if name.startswith("decoder.") else _ENCODER
    half, _, rest = name.partition(".")
    if half not in ("encoder", "decoder"):
        return Place(prefix + name)
    if attention := re.match(r"mid_block\.attentions\.0\.(.*)", rest):
        inner = _renamed(attention[1], _VAE_ATTENTION)
        kernel = inner.endswith(".weight") and not inner.startswith("norm.")
        return Place(f"{prefix}{half}.mid.attn_1.{inner}", kernel=kernel)
    rest = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", rest)
    rest = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{LEVELS - 1 - int(found[1])}", rest)
    rest = rest.replace("down_blocks.", "down.").replace("resnets.", "block.").replace("conv_shortcut", "nin_shortcut")
    rest = rest.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    return Place(f"{prefix}{half}.{rest.replace('conv_norm_out', 'norm_out')}")


def _clip_place(name: str) -> Place:
    if name == "visual_projection.weight":
        return Place(_CLIP + "proj", transposed=True)
    rest = name.removeprefix("vision_model.")
    layer = re.match(r"encoder\.layers\.(\d+)\.(.*)", rest)
    if layer is None:
        return Place(_CLIP + _renamed(rest, _CLIP_ENDS))
    block = f"{_CLIP}transformer.resblocks.{layer[1]}."
    if projection := re.match(r"self_attn\.([qkv])_proj\.(weight|bias)", layer[2]):
        return Place(f"{block}attn.in_proj_{projection[2]}", third="qkv".index(projection[1]))
    return Place(block + _renamed(layer[2], _CLIP_LAYER))
