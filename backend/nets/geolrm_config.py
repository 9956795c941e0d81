"""GeoLRM's sizes, read from a checkpoint's shapes where shapes can tell, and the checkpoint's parts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from backend.errors import MissingWeights
from backend.nets.dinov2 import Dinov2Config

PROPOSAL, RECONSTRUCTION = "serializer.", "lrm_generator."


@dataclass(frozen=True)
class StageConfig:
    """Sizes of one of the two networks. points: samples of a head in one level of a picture's tokens."""

    width: int
    layers: int
    heads: int = 16
    points: int = 8
    image_width: int = 384
    dino: Dinov2Config = field(default_factory=Dinov2Config)

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str, heads: int, dino_heads: int) -> StageConfig:
        """The sizes that the shapes tell; heads: shapes tell only how many there are times `points`."""
        stem = f"{prefix}transformer.layers."
        layers = {key[len(stem) :].split(".")[0] for key in state if key.startswith(stem)}
        weights = state[f"{stem}0.cross_attention.deformable_attention.attention_weights.weight"]
        return cls(
            width=int(weights.shape[1]),
            layers=len(layers),
            heads=heads,
            points=int(weights.shape[0]) // (2 * heads),
            image_width=int(state[f"{prefix}encoder.low_level_encoder.0.weight"].shape[0]),
            dino=Dinov2Config.from_state(state, f"{prefix}encoder.model.", dino_heads),
        )


@dataclass(frozen=True)
class GeoLrmConfig:
    """Sizes and behaviours; the defaults are the published model's.

    grid: voxels a side; block: voxels a side of one proposal token; gaussians: of one anchor; offset, scale: the
    largest distance of a Gaussian from its anchor along an axis, and its largest size.
    attention: "heads" as the released code runs, or "tokens" as the paper says (see `SelfAttention`).
    rope_extent: half the side of the volume that 3D RoPE's indices span in the reconstruction: 0.5 as in training; the
    released inference scripts have 1.0. Without effect where attention is over heads.
    """

    proposal: StageConfig = StageConfig(384, 6)
    reconstruction: StageConfig = StageConfig(768, 16)
    grid: int = 128
    block: int = 8
    gaussians: int = 32
    offset: float = 0.2
    scale: float = 0.02
    attention: str = "heads"
    rope_extent: float = 0.5

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GeoLrmConfig:
        """What to_dict gave, also after JSON."""
        values = dict(values)
        for name in ("proposal", "reconstruction"):
            stage = dict(values[name])
            values[name] = StageConfig(**{**stage, "dino": Dinov2Config(**stage["dino"])})
        return cls(**values)

    @classmethod
    def from_state(
        cls, state: dict[str, Tensor], heads: int = 16, dino_heads: int = 0, grid: int = 128
    ) -> GeoLrmConfig:
        """The configuration of a checkpoint by its shapes. What they cannot tell is given, or the published value.

        heads: of both transformers; dino_heads: of both image encoders, by default width / 64. Raises MissingWeights
        where the checkpoint lacks what tells it.
        """
        try:
            return cls(
                proposal=StageConfig.from_state(state, PROPOSAL, heads, dino_heads),
                reconstruction=StageConfig.from_state(state, RECONSTRUCTION, heads, dino_heads),
                grid=grid,
                block=round(state[f"{PROPOSAL}upsample.weight"].shape[0] ** (1 / 3)),
                gaussians=int(state[f"{RECONSTRUCTION}renderer.latent_decoder.2.weight"].shape[0]) // 14,
            )
        except KeyError as error:
            raise MissingWeights(
                f"These are no weights of GeoLRM: they lack {error.args[0]}.", "Use the published geolrm.ckpt."
            ) from error


def split_lightning(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(what `GeoLrm` loads, what inference has no use for) of a Lightning module's flat state dict.

    `serializer.` is the proposal network and `lrm_generator.` the reconstruction network, in the checkpoint as in
    `GeoLrm`; below `lpips.` lies the training loss's own network. Any other key is left with the first, so that loading
    names it.
    """
    loss = {key: value for key, value in state.items() if key.startswith("lpips.")}
    return {key: value for key, value in state.items() if key not in loss}, loss
