"""Sizes and settings of a GRM, read from a published checkpoint: from its tensors' shapes where those tell."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from backend.errors import BadInput, MissingWeights

HEAD_WIDTH = 64
SCALE_ACTIVATIONS = ("sigmoid", "exp", "softplus")


@dataclass(frozen=True)
class GrmConfig:
    """Fields are named as the published checkpoints name them.

    input_res: side of a view and of its map of Gaussians, in pixels; with half_res_input the network itself sees half.
    decoder_ratio: stages of the upsampler, each doubling the side. window_size, bwindow_size: consecutive tokens that
    attend to each other in the upsampler and in the encoder; None: all of them. scaling_activation_type, scale_offset
    and scale_max limit the raw scales; render_activation_type and the three constants after it make sizes of them.
    """

    input_res: int = 512
    patch_size: int = 16
    layers: int = 24
    width: int = 768
    decoder_ratio: int = 4
    half_res_input: bool = False
    in_channels: int = 3
    window_size: int | None = 4096
    bwindow_size: int | None = None
    scaling_activation_type: str = "sigmoid"
    scale_offset: float = 0.0
    scale_max: float = 0.0
    render_activation_type: str = "exp"
    scale_min_act: float = 1.0
    scale_max_act: float = 1.0
    scale_multi_act: float = 0.1

    def __post_init__(self) -> None:
        for name in ("scaling_activation_type", "render_activation_type"):
            if getattr(self, name) not in SCALE_ACTIVATIONS:
                raise BadInput(
                    f"GRM's {name} is {getattr(self, name)!r}, which this version does not know.",
                    f"Use weights with one of: {', '.join(SCALE_ACTIVATIONS)}.",
                )
        for name in ("window_size", "bwindow_size"):
            window = getattr(self, name)
            if window is not None and (not isinstance(window, int) or window < 2 or window % 2):
                raise BadInput(f"GRM's {name} is {window!r}; it has to be even.", "Use weights as they were published.")
        sizes = (self.input_res, self.patch_size, self.layers, self.in_channels, self.width // HEAD_WIDTH)
        if min(sizes) < 1 or self.decoder_ratio < 0 or self.width % (self.width // HEAD_WIDTH):
            raise BadInput("GRM's sizes contradict each other.", "Use weights as they were published.")
        if self.encoder_res % self.patch_size or self.shuffle * self.last_side != self.input_res:
            raise BadInput("GRM's patches do not divide its pictures.", "Use weights as they were published.")

    @property
    def encoder_res(self) -> int:
        """Side of the pictures that the encoder sees, in pixels."""
        return self.input_res // 2 if self.half_res_input else self.input_res

    @property
    def view_tokens(self) -> int:
        """Tokens that the encoder makes of a view."""
        return (self.encoder_res // self.patch_size) ** 2

    @property
    def stage_widths(self) -> list[int]:
        """Channels after each stage of the upsampler: halved, in whole heads, at least one head."""
        widths = [self.width]
        for _ in range(self.decoder_ratio):
            widths.append(max(widths[-1] // 2, HEAD_WIDTH) // HEAD_WIDTH * HEAD_WIDTH)
        return widths[1:]

    @property
    def shuffle(self) -> int:
        """Gaussians of a last token, along one side."""
        return self.patch_size * (2 if self.half_res_input else 1) // 2**self.decoder_ratio

    @property
    def last_side(self) -> int:
        """Tokens of a view along one side after the upsampler."""
        return self.encoder_res // self.patch_size * 2**self.decoder_ratio

    def takes(self, views: int) -> bool:
        """Whether so many views can be seen together.

        The upsampler shuffles all views' tokens as one square picture, so their number has to be a square, and windows
        have to divide it.
        """
        tokens = views * self.view_tokens
        square = self.decoder_ratio == 0 or math.isqrt(tokens) ** 2 == tokens
        whole = not self.decoder_ratio or self.window_size is None or 4 * tokens % self.window_size == 0
        return views > 0 and square and whole and (self.bwindow_size is None or tokens % self.bwindow_size == 0)

    def usable_views(self, available: int) -> int:
        """The largest number of views, at most `available`, that can be seen together. Raises BadInput for none."""
        for views in range(available, 0, -1):
            if self.takes(views):
                return views
        raise BadInput(f"This GRM cannot use {available} views.", "Give it four views, or as many as it was made for.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GrmConfig:
        return cls(**values)


# The paper's sizes (section 3 and appendix), for runs without weights: published checkpoints carry their own.
PAPER = GrmConfig(render_activation_type="sigmoid", scale_min_act=0.005, scale_max_act=0.02)

_FROM_HINTS = {
    "visual": ("window_size", "bwindow_size", "scaling_activation_type", "scale_offset", "scale_max"),
    "render": ("scale_min_act", "scale_max_act", "scale_multi_act"),
}


def config_of(state: Mapping[str, Tensor], hints: Mapping[str, Any] | None) -> GrmConfig:
    """The config of published weights.

    state: keys as published, `visual_encoder.` first. hints: the checkpoint's `config.model_config`, whose
    `visual.params` and `render.params` hold what no shape tells (windows and the scales' activation); fields that are
    absent there have the released code's defaults. Raises MissingWeights where the state is not a GRM's, where there
    are no hints, and where shapes and hints contradict each other; BadInput for settings that are not known.
    """
    sizes = _sizes(state)
    visual, render = (_params(hints, part) for part in ("visual", "render"))
    for name, read in sizes.items():
        if name in visual and visual[name] != read:
            raise MissingWeights(
                f"GRM's weights contradict themselves: {name} is {visual[name]} in the config, {read} in the tensors.",
                "Get the file again.",
            )
    settings = {key: visual[key] for key in _FROM_HINTS["visual"] if key in visual}
    settings.setdefault("window_size", None)
    # The released code takes all three from the config or none.
    if "scale_min_act" in render:
        settings |= {key: float(render[key]) for key in _FROM_HINTS["render"] if key in render}
    settings["render_activation_type"] = render.get("scaling_activation_type", "exp")
    return GrmConfig(**sizes, **settings)


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What shapes tell."""
    dimensions = {"transformer_encoder.conv.weight": 4, "transformer_encoder.positional_embedding": 3,
                  "out_layer_depth.weight": 4}  # fmt: skip
    shapes = []
    for name, count in dimensions.items():
        tensor = state.get("visual_encoder." + name)
        if tensor is None or tensor.ndim != count:
            raise MissingWeights(
                f"These are not GRM's weights: visual_encoder.{name} is wrong.", "Choose another file."
            )
        shapes.append(tensor.shape)
    (width, channels, patch, _), (_, tokens, _), (ratio, *_) = shapes
    stages = _count(state, r"visual_encoder\.gaussian_upsampler\.upsampler_(\d+)\.")
    encoder_res, shuffle = patch * math.isqrt(tokens), math.isqrt(ratio)
    half = shuffle * 2**stages == 2 * patch
    if not half and shuffle * 2**stages != patch:
        raise MissingWeights("GRM's upsampler and its last layers do not fit each other.", "Get the file again.")
    return {
        "input_res": encoder_res * (2 if half else 1),
        "patch_size": patch,
        "layers": _count(state, r"visual_encoder\.transformer_encoder\.transformer\.resblocks\.(\d+)\."),
        "width": width,
        "decoder_ratio": stages,
        "half_res_input": half,
        "in_channels": channels - 6,  # the other six are the rays
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    found = (re.match(pattern, key) for key in state)
    return len({match[1] for match in found if match})


def _params(hints: Mapping[str, Any] | None, part: str) -> Mapping[str, Any]:
    params = ((hints or {}).get(part) or {}).get("params")
    if not isinstance(params, Mapping):
        raise MissingWeights(
            f"GRM's weights came without their config ({part}.params), which no tensor can replace.",
            "Use the .pth file as it was published.",
        )
    return params
