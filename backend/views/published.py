"""The generators whose weights are not in the repository: with those, or with random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.errors import MissingWeights
from backend.packs import PUBLISHED
from backend.reconstruct.checkpoints import prepared
from backend.views.folders import published_folder
from backend.weights import how_to_get, missing_weights

if TYPE_CHECKING:
    from backend.recipe import ViewGenerator
    from backend.views.dmv3d import Dmv3dGenerator


def own_dmv3d(device: str, untrained: bool = False) -> Dmv3dGenerator:
    """DMV3D with weights that its user trained, or with random ones. Raises MissingWeights."""
    from backend.nets.dmv3d import Dmv3dConfig
    from backend.views.dmv3d import Dmv3dGenerator
    from backend.vocabulary import TOKENS

    if untrained:
        return Dmv3dGenerator.untrained(Dmv3dConfig(vocabulary=len(TOKENS)), device)
    pack = PUBLISHED["dmv3d-own"]
    if not pack.path.is_file():
        raise missing_weights(pack)
    return Dmv3dGenerator.load(pack.path, device)


def picture_generator(pack: str, device: str, untrained: bool = False, **options: Any) -> ViewGenerator:
    """A generator with a pack's weights. options: of its class; `way` by name, as in `WAYS`; white=True: with the U-Net
    for white backgrounds where its weights are on this machine.

    Raises MissingWeights, which says where to get them, and BadInput where a library is not installed.
    """
    if pack.startswith("zero123plus"):
        from backend.views.zero123plus import VERSIONS, Zero123PlusGenerator

        white = PUBLISHED["zero123plus-white"] if options.pop("white", False) else None
        version = VERSIONS[pack.removeprefix("zero123plus-")]
        if untrained:
            return Zero123PlusGenerator.untrained(version, device=device, **options)
        if white is None or not white.present:
            return Zero123PlusGenerator.load(published_folder(pack), version, device, **options)
        unet = prepared(str(white.model), white.path)
        generator = Zero123PlusGenerator.load(published_folder(pack), version, device, unet, **options)
        generator.further_packs = (white.name,)
        return generator

    from backend.views.sv3d import WAYS, Sv3dGenerator

    options["way"] = WAYS[options["way"]]
    if untrained:
        return Sv3dGenerator.untrained(device=device, **options)
    found = PUBLISHED[pack]
    if not found.path.is_file():
        raise MissingWeights(f"The weights of {found.title.split(':')[0]} are not on this machine.", how_to_get(found))
    return Sv3dGenerator.load(found.path, device=device, **options)
