"""The published reconstructors with their weights, or with random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from backend.device import inference_dtype
from backend.packs import PUBLISHED
from backend.reconstruct.checkpoints import prepared
from backend.weights import missing_weights

if TYPE_CHECKING:
    from backend.recipe import Reconstructor


def load_published(name: str, device: str) -> Reconstructor:
    """A reconstructor with a pack's weights. Raises MissingWeights, which says where to get them."""
    pack = PUBLISHED[name]
    if not pack.path.is_file():
        raise missing_weights(pack)
    path = prepared(str(pack.model), pack.path)
    if pack.model == "grm":
        from backend.reconstruct.grm import GrmReconstructor

        return GrmReconstructor.load(path, device, inference_dtype(device))
    if pack.model == "geolrm":
        from backend.reconstruct.geolrm import GeoLrmReconstructor

        return GeoLrmReconstructor.load(path, device, inference_dtype(device))
    from backend.reconstruct.published_lgm import PublishedLgm

    return PublishedLgm.load(path, device)


def untrained_published(name: str, device: str) -> Reconstructor:
    """A reconstructor with random weights: its way can be tried, and nothing it makes means anything."""
    model = PUBLISHED[name].model
    if model == "grm":
        from backend.reconstruct.grm import GrmReconstructor

        return GrmReconstructor.untrained(device=device, dtype=inference_dtype(device))
    if model == "geolrm":
        from backend.reconstruct.geolrm import GeoLrmReconstructor

        return GeoLrmReconstructor.untrained(device=device, dtype=inference_dtype(device))
    from backend.reconstruct.published_lgm import PublishedLgm

    return PublishedLgm.untrained(device=device, dtype=inference_dtype(device, torch.float16))
