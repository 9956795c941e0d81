"""The recipes, in one table: which generator feeds which reconstructor, with which cameras and settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from backend.errors import BadInput
from backend.recipe import Generation, PictureMaker, PictureMaking, Recipe, Reconstructor, ViewGenerator


def _starter_generator(device: str) -> ViewGenerator:
    from backend.views.dmv3d import Dmv3dGenerator

    return Dmv3dGenerator.load(device=device)


def _starter_reconstructor(device: str) -> Reconstructor:
    from backend.reconstruct.dmv3d import Dmv3dReconstructor

    return Dmv3dReconstructor.load(device=device)


def _own_generator(device: str, untrained: bool = False) -> ViewGenerator:
    from backend.views.published import own_dmv3d

    return own_dmv3d(device, untrained)


def _own_reconstructor(device: str, untrained: bool = False) -> Reconstructor:
    from backend.reconstruct.dmv3d import Dmv3dReconstructor
    from backend.views.published import own_dmv3d

    return Dmv3dReconstructor(own_dmv3d(device, untrained), None if untrained else "dmv3d-own")


def _published(name: str, untrained: bool) -> Callable[[str], Reconstructor]:
    """Loads a published reconstructor with its pack's weights, or makes one with random weights."""

    def load(device: str) -> Reconstructor:
        from backend.reconstruct.published import load_published, untrained_published

        return untrained_published(name, device) if untrained else load_published(name, device)

    return load


def _multiview(pack: str, untrained: bool) -> Callable[[str], ViewGenerator]:
    """Loads MVDream or ImageDream, or makes one with random weights."""

    def load(device: str) -> ViewGenerator:
        from backend.views.folders import check_libraries, published_folder

        folder = None if untrained else published_folder(pack)
        check_libraries()
        from backend.views.mvdream import MultiViewGenerator

        pictured = pack == "imagedream"
        if folder is None:
            return MultiViewGenerator.untrained(pictured, device)
        return MultiViewGenerator.load(folder, device, pictured)

    return load


def _multiview_generation(pack: str, guidance: float) -> Generation:
    load, untrained = (_multiview(pack, untrained) for untrained in (False, True))
    return Generation(load, pack, steps=30, guidance=guidance, seconds=600.0, load_untrained=untrained)


def _seeing(pack: str, *, steps: int, guidance: float, seconds: float, **options: Any) -> Generation:
    """Zero123++ or SV3D. options: as backend.views.published takes them."""

    def load(device: str, untrained: bool = False) -> ViewGenerator:
        from backend.views.published import picture_generator

        return picture_generator(pack, device, untrained, **options)

    return Generation(load, pack, steps, guidance, seconds, load_untrained=partial(load, untrained=True))


def _text_to_image(untrained: bool) -> Callable[[str], PictureMaker]:
    """Loads the one model that makes pictures of words, or makes it with random weights."""

    def load(device: str) -> PictureMaker:
        from backend.views.folders import check_libraries, published_folder

        folder = None if untrained else published_folder(WORDS_TO_PICTURE.pack)
        check_libraries()
        from backend.views.text_to_image import TextToImage

        return TextToImage.untrained(device) if folder is None else TextToImage.load(folder, device)

    return load


# For all recipes whose generators see pictures alone; why it is this one, backend.views.text_to_image says.
WORDS_TO_PICTURE = PictureMaking(
    _text_to_image(untrained=False), "sdxl", steps=30, guidance=7.0, seconds=3600.0,
    load_untrained=_text_to_image(untrained=True),
)  # fmt: skip


def _published_recipe(
    name: str,
    pack: str,
    title: str,
    *,
    views: tuple[int, int],
    size: int,
    radius: float,
    fov: float,
    seconds: float,
    from_text: Generation | None = None,
    from_picture: Generation | None = None,
) -> Recipe:
    """A published reconstructor, and the generators that feed it. views: the fewest and the most posed pictures.

    Where there is a generator for pictures alone, words become a picture first.
    """
    if from_text is None and from_picture is not None:
        from_text = replace(from_picture, picture=WORDS_TO_PICTURE)
    return Recipe(
        name=name,
        title=title,
        from_text=from_text,
        from_picture=from_picture,
        load_reconstructor=_published(pack, untrained=False),
        load_untrained=_published(pack, untrained=True),
        pack=pack,
        view_count=views[0],
        most_views=views[1],
        view_size=size,
        radius=radius,
        fov_degrees=fov,
        seconds={"views": 2.0, "reconstruct": seconds, "surface": 6.0, "texture": 10.0, "export": 1.0},
    )


# The reader tells the kind of thing where no words do, to the reconstructor too.
_STARTER_TEXT = Generation(
    _starter_generator, "dmv3d", steps=25, guidance=3.0, seconds=14.0, also=("reader",), rerolls=True
)
# What a picture shows is told to the model in a word as well; more than told, it would outshout the picture.
_STARTER_PICTURE = replace(_STARTER_TEXT, guidance=1.0, seconds=8.0)

_OWN_TEXT = Generation(
    _own_generator, "dmv3d-own", steps=25, guidance=3.0, seconds=60.0, also=("reader",), rerolls=True,
    load_untrained=partial(_own_generator, untrained=True),
)  # fmt: skip
_OWN_PICTURE = replace(_OWN_TEXT, guidance=1.0)

RECIPES: dict[str, Recipe] = {
    "starter": Recipe(
        name="starter",
        title="Starter: small models trained on everyday things, on any machine",
        from_text=_STARTER_TEXT,
        from_picture=_STARTER_PICTURE,
        load_reconstructor=_starter_reconstructor,
        pack="dmv3d",  # and "lgm", of posed pictures
        view_count=4,
        view_size=128,
        radius=3.0,
        fov_degrees=50.0,
        seconds={"views": 2.0, "reconstruct": 0.6, "surface": 2.0, "texture": 4.5, "export": 0.5},
        memory=920_000_000,
    ),
    "dmv3d": Recipe(
        name="dmv3d",
        title="DMV3D as you trained it, of the starter's size or larger",
        from_text=_OWN_TEXT,
        from_picture=_OWN_PICTURE,
        load_reconstructor=_own_reconstructor,
        load_untrained=partial(_own_reconstructor, untrained=True),
        pack="dmv3d-own",
        view_count=4,
        view_size=128,
        radius=3.0,
        fov_degrees=50.0,
        seconds={"views": 2.0, "reconstruct": 1.0, "surface": 2.0, "texture": 4.5, "export": 0.5},
    ),
    # radius: where an object of the canonical size fills as much of a picture as in what each model was trained on.
    "lgm": _published_recipe(
        "lgm", "lgm-big", "LGM as published, fed by MVDream (words), ImageDream (a picture), or four posed pictures",
        from_text=_multiview_generation("mvdream", guidance=7.5),
        from_picture=_multiview_generation("imagedream", guidance=5.0),
        views=(4, 4), size=256, radius=2.46, fov=49.1, seconds=15.0,
    ),
    # Which views, of which cameras, in how many steps: as in GRM's and GeoLRM's released code. GRM's weights know the
    # four views of one generator each; GeoLRM is told that SV3D's lens is wider than it is.
    "grm": _published_recipe(
        "grm", "grm-r", "GRM as published, fed by Zero123++ (a picture, or words), or four posed pictures",
        from_picture=_seeing("zero123plus-v1.2", steps=30, guidance=4.0, seconds=3000.0, views=(0, 2, 4, 5)),
        views=(4, 4), size=512, radius=2.7, fov=50.0, seconds=200.0,
    ),
    "grm-zero123plus-v1.1": _published_recipe(
        "grm-zero123plus-v1.1", "grm-zero123plus",
        "GRM as published, fed by Zero123++ v1.1 (a picture, or words), or four posed pictures",
        from_picture=_seeing(
            "zero123plus-v1.1", steps=30, guidance=4.0, seconds=3000.0, views=(0, 2, 4, 5), fov_degrees=50.0
        ),
        views=(4, 4), size=512, radius=2.7, fov=50.0, seconds=200.0,
    ),
    "grm-sv3d": _published_recipe(
        "grm-sv3d", "grm-u",
        "GRM as published, fed by SV3D (a picture, or words), or four posed pictures a quarter turn apart",
        from_picture=_seeing("sv3d-p", steps=30, guidance=2.5, seconds=30_000.0, way="four"),
        views=(4, 4), size=512, radius=2.7, fov=50.0, seconds=200.0,
    ),
    "geolrm": _published_recipe(
        "geolrm", "geolrm", "GeoLRM as published, fed by SV3D (a picture, or words), or two to 24 posed pictures",
        from_picture=_seeing(
            "sv3d-p", steps=50, guidance=2.5, seconds=50_000.0, way="even", fov_degrees=39.6, radius=2.7
        ),
        views=(2, 24), size=448, radius=2.7, fov=39.6, seconds=300.0,
    ),
    "geolrm-zero123plus": _published_recipe(
        "geolrm-zero123plus", "geolrm",
        "GeoLRM as published, fed by Zero123++ (a picture, or words), or two to 24 posed pictures",
        from_picture=_seeing(
            "zero123plus-v1.2", steps=75, guidance=4.0, seconds=7500.0, radius=2.7, object_fraction=0.85, white=True
        ),
        views=(2, 24), size=448, radius=2.7, fov=39.6, seconds=300.0,
    ),
}  # fmt: skip


def find_recipe(name: str) -> Recipe:
    """Raises BadInput for a name that no recipe has."""
    if name not in RECIPES:
        raise BadInput(f"There is no recipe called '{name[:40]}'.", f"Use one of: {', '.join(RECIPES)}.")
    return RECIPES[name]
