"""Which networks stay loaded: with made-up figures of free memory, made-up models, and weak references to them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_runs import run
from stand_ins import TINY, TinyGenerator, TinyReconstructor
from torch import nn

import backend.memory
from backend import recipes
from backend.datatypes import Step
from backend.errors import OutOfMemory
from backend.job.models import Models
from backend.memory import (
    GIB,
    LAYERS,
    NEEDS,
    RESERVE,
    TURNS,
    WHOLE,
    Need,
    check_weights_fit,
    free_memory,
    is_out_of_memory,
    is_short,
    out_of_memory,
    placement,
    retried,
)
from backend.nets.geolrm import GeoLrm
from backend.nets.geolrm_config import GeoLrmConfig
from backend.nets.grm import Grm
from backend.nets.grm_config import PAPER
from backend.nets.lgm import BIG, Lgm
from backend.recipes import Recipe
from backend.views.residence import Residence

PLENTY = 2**60


class Big(TinyGenerator):
    """A generator on a device that is not here: its parts pretend to move."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.residence = Residence(
            {"unet": nn.Linear(4, 4)}, device, {}, free=lambda _: PLENTY, move=lambda part, to: self.moves.append(to)
        )
        self.moves: list[str] = []


class Device:
    """Free bytes by device."""

    def __init__(self, **free: int | None) -> None:
        self.free = free

    def __call__(self, device: str) -> int | None:
        return self.free[device]


def big_recipe(name: str = "big", generator: Any = Big, pack: str = "sv3d-p", reconstructor: str = "geolrm") -> Recipe:
    """Made-up models that claim to need as much as published ones."""
    assert TINY.from_picture is not None
    way = replace(TINY.from_picture, load=generator, pack=pack)
    return replace(
        TINY, name=name, from_text=way, from_picture=way, pack=reconstructor,
        load_reconstructor=lambda device: TinyReconstructor(),
    )  # fmt: skip


def gone(reference: weakref.ref[Any]) -> bool:
    if reference() is not None:
        gc.collect()
    return reference() is None


# -- the decisions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "way"),
    [
        (None, WHOLE), (70 + RESERVE, WHOLE), (69 + RESERVE, TURNS), (50 + RESERVE, TURNS), (49 + RESERVE, LAYERS),
        (0, LAYERS),
    ],
)  # fmt: skip
def test_as_much_lies_on_the_card_as_fits(free: int | None, way: str) -> None:
    assert placement({"unet": 40, "vae": 20}, {"unet": 10, "vae": 5}, free) == way


def test_what_decoding_needs_is_needed_only_when_the_autoencoder_has_its_turn() -> None:
    parts, beside = {"unet": 40, "vae": 5}, {"unet": 5, "vae": 40}
    assert placement(parts, beside, 85 + RESERVE) == WHOLE
    assert placement(parts, beside, 45 + RESERVE) == TURNS
    assert placement(parts, beside, 44 + RESERVE) == LAYERS


@pytest.mark.parametrize(
    ("pack", "ways"),
    [
        ("mvdream", (WHOLE, WHOLE, WHOLE, WHOLE)), ("imagedream", (TURNS, WHOLE, WHOLE, WHOLE)),
        ("zero123plus-v1.2", (TURNS, WHOLE, WHOLE, WHOLE)), ("sv3d-p", (LAYERS, TURNS, WHOLE, WHOLE)),
        ("sdxl", (LAYERS, TURNS, TURNS, WHOLE)),
    ],
)  # fmt: skip
def test_how_the_published_generators_work_on_cards_of_several_sizes(pack: str, ways: tuple[str, ...]) -> None:
    """In half precision, with 4, 6, 8 and 12 GB free, as the documentation says."""
    unets = {"mvdream": 867_572_164, "imagedream": 941_672_900, "zero123plus-v1.2": 865_910_724}
    unets |= {"sv3d-p": 1_525_278_442, "sdxl": 2_567_463_684}
    need = NEEDS[pack]
    parts = {"unet": 2 * unets[pack], "vae": (4 if need.wide else 2) * 83_653_863}
    parts["encoders"] = 2 * need.parameters - parts["unet"] - 2 * 83_653_863
    assert tuple(placement(parts, need.beside(2), free * GIB) for free in (4, 6, 8, 12)) == ways


def test_what_is_short() -> None:
    need = Need(parameters=100, working=80)
    assert (need.bytes(4), need.bytes(2)) == (480, 240)
    assert Need(100, 80, 60, narrow=True, wide=True).bytes(4) == 200 + 80
    assert Need(100, 80, 60, narrow=True, wide=True).bytes(2) == 200 + 60
    assert not is_short(need, 4, 480 + RESERVE)
    assert is_short(need, 4, 479 + RESERVE)
    assert not is_short(None, 4, 0)
    assert not is_short(need, 4, None)
    check_weights_fit("It", need, 4, 400)
    with pytest.raises(OutOfMemory, match="It needs"):
        check_weights_fit("It", Need(5 * GIB, GIB), 4, GIB)


def test_the_table_holds_what_the_published_networks_have() -> None:
    from sv3d_cases import build, published_config

    from backend.nets.clip import picture_encoder
    from backend.nets.zero123plus_config import COMPONENTS
    from backend.views.mvdream_untrained import FULL, untrained_pipeline

    with torch.device("meta"):
        from diffusers import AutoencoderKL, UNet2DConditionModel

        found: dict[str, list[Any]] = {
            "sv3d-p": list(build(published_config("p")).values()),
            "lgm-big": [Lgm(BIG)], "grm-r": [Grm(PAPER)], "geolrm": [GeoLrm(GeoLrmConfig())],
        }  # fmt: skip
        found["imagedream"] = list(untrained_pipeline(True, FULL).components.values())
        found["zero123plus-v1.2"] = [
            UNet2DConditionModel(**COMPONENTS["unet"]), AutoencoderKL(**COMPONENTS["vae"]),
            picture_encoder(COMPONENTS["vision_encoder"]),
        ]  # fmt: skip
    for name, modules in found.items():
        parts = [module for module in modules if isinstance(module, nn.Module)]
        assert sum(value.numel() for part in parts for value in part.parameters()) == NEEDS[name].parameters, name


def test_free_memory_of_this_machine_is_told() -> None:
    free = free_memory("cpu")
    assert free is None or free > 0
    assert free_memory("mps") is None


# -- what stays loaded ------------------------------------------------------------------------------------------------


def test_another_recipes_generator_goes() -> None:
    models = Models(Device(cpu=PLENTY))
    first, second = big_recipe("a"), big_recipe("b")
    seen = weakref.ref(models.generator(first, "cpu", pictured=True))
    kept = weakref.ref(models.reconstructor(first, "cpu"))
    assert models.generator(first, "cpu", pictured=True) is seen()
    models.generator(second, "cpu", pictured=True)
    assert gone(seen)
    assert not gone(kept)  # there is room
    models.reconstructor(second, "cpu")
    assert gone(kept)


def test_where_memory_is_short_the_generator_goes_before_the_reconstructor_comes() -> None:
    room = Device(cpu=PLENTY)
    models, recipe = Models(room), big_recipe()
    generator = weakref.ref(models.generator(recipe, "cpu", pictured=True))
    room.free["cpu"] = NEEDS["geolrm"].bytes(4) + RESERVE - 1
    reconstructor = weakref.ref(models.reconstructor(recipe, "cpu"))
    assert gone(generator)
    room.free["cpu"] = NEEDS["sv3d-p"].bytes(4) + RESERVE - 1
    models.generator(recipe, "cpu", pictured=True)
    assert gone(reconstructor)
    room.free["cpu"] = 2 * GIB
    models.make_room_for_mesh()
    assert models._generators
    room.free["cpu"] = GIB
    models.make_room_for_mesh()
    assert not models._generators


def test_on_a_card_the_generator_makes_way_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.job.models.inference_dtype", lambda *_: torch.float16)
    room = Device(cpu=PLENTY, cuda=PLENTY)
    models, recipe = Models(room), big_recipe()
    generator: Any = models.generator(recipe, "cuda", pictured=True)
    generator.residence.enter()
    assert generator.moves == ["cuda"]
    room.free["cuda"] = NEEDS["geolrm"].bytes(2) + RESERVE - 1
    reconstructor = weakref.ref(models.reconstructor(recipe, "cuda"))
    assert generator.moves == ["cuda", "cpu"]
    room.free["cuda"] = 0  # as little as now: the reconstructor makes way in its turn
    assert models.generator(recipe, "cuda", pictured=True) is generator
    assert gone(reconstructor)
    generator.residence.enter()
    assert generator.moves == ["cuda", "cpu", "cuda"]


@pytest.mark.parametrize("roomy", [True, False])
def test_between_jobs_a_card_is_empty(monkeypatch: pytest.MonkeyPatch, roomy: bool) -> None:
    """The generator waits in the machine's memory, unless that is short too."""
    monkeypatch.setattr("backend.job.models.inference_dtype", lambda *_: torch.float16)
    emptied: list[int] = []
    monkeypatch.setattr("backend.job.models.give_back", lambda: emptied.append(1))
    models, recipe = Models(Device(cpu=PLENTY if roomy else GIB, cuda=PLENTY)), big_recipe()
    generator: Any = models.generator(recipe, "cuda", pictured=True)
    generator.residence.enter()
    seen, kept = weakref.ref(generator), weakref.ref(models.reconstructor(recipe, "cuda"))
    del generator
    emptied.clear()
    models.rest()
    assert emptied
    assert gone(kept)
    assert gone(seen) != roomy
    if roomy:
        assert seen().moves == ["cuda", "cpu"]  # type: ignore[union-attr]


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_what_shares_the_machines_memory_stays_until_nothing_comes(device: str) -> None:
    models, recipe = Models(Device(cpu=PLENTY, mps=None)), big_recipe()
    generator = weakref.ref(models.generator(recipe, device, pictured=True))
    reconstructor = weakref.ref(models.reconstructor(recipe, device))
    models.rest()
    assert not gone(generator)
    assert not gone(reconstructor)
    models.release()
    assert gone(generator)
    assert gone(reconstructor)


def test_the_starters_small_networks_stay() -> None:
    models = Models(Device(cpu=PLENTY, cuda=PLENTY))
    generator = weakref.ref(models.generator(TINY, "cuda", pictured=True))
    reconstructor = weakref.ref(models.reconstructor(replace(TINY, pack="lgm"), "cuda"))
    models.rest()
    assert not gone(generator)
    assert not gone(reconstructor)


def test_what_cannot_fit_is_refused_before_it_is_loaded() -> None:
    """The system would end the process without a word."""
    loaded: list[str] = []
    models = Models(Device(cpu=3 * GIB))
    with pytest.raises(OutOfMemory, match=r"SV3D.* needs about \d+ GB of memory, and 3\.0 GB are free") as caught:
        models.generator(big_recipe(generator=lambda device: loaded.append(device)), "cpu", pictured=True)
    assert caught.value.fix
    assert not loaded


# -- where it runs out all the same -----------------------------------------------------------------------------------


class Hungry(Big):
    """Has not enough memory for the first `failures` tries, in the second step."""

    failures = 1
    tries = 0
    held: list[weakref.ref[Any]]

    def generate(self, *arguments: Any, **options: Any) -> Generator[Step, None, Any]:
        return self._generate(super().generate(*arguments, **options))

    def _generate(self, walk: Generator[Step, None, Any]) -> Generator[Step, None, Any]:
        kind = type(self)
        kind.tries += 1
        activations = torch.zeros(8)
        assert all(gone(reference) for reference in kind.held), "the failed try still holds its memory"
        kind.held.append(weakref.ref(activations))
        yield next(walk)
        if kind.tries <= kind.failures:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return (yield from walk)


@pytest.fixture
def hungry(monkeypatch: pytest.MonkeyPatch) -> type[Hungry]:
    kind = type("Hungry", (Hungry,), {"held": [], "tries": 0})
    monkeypatch.setitem(recipes.RECIPES, "starter", big_recipe("starter", kind, "dmv3d", "lgm"))
    return kind  # type: ignore[return-value]


def test_what_is_not_needed_goes_and_all_begins_again(hungry: type[Hungry], tmp_path: Path) -> None:
    models = Models(Device(cpu=PLENTY))
    recipe = recipes.RECIPES["starter"]
    reconstructor = weakref.ref(models.reconstructor(recipe, "cpu"))
    events = run(tmp_path, models=models, device="cpu", prompt="a red mushroom", to_stage="views")
    assert hungry.tries == 2
    assert gone(reconstructor)
    assert any("trying again" in getattr(event, "message", "") for event in events)
    assert (tmp_path / "transforms.json").exists()


def test_where_nothing_is_left_to_spare_one_sentence_says_so(hungry: type[Hungry], tmp_path: Path) -> None:
    hungry.failures = 9
    with pytest.raises(OutOfMemory, match="too small for this recipe's models") as caught:
        run(tmp_path / "job", models=Models(Device(cpu=PLENTY)), device="cpu", prompt="a red mushroom")
    assert hungry.tries == 1
    assert "starter" in caught.value.fix
    assert not (tmp_path / "job").exists()


def test_on_a_card_each_thriftier_way_is_tried() -> None:
    Hungry.held, Hungry.failures, Hungry.tries = [], 2, 0
    models = Models(Device(cpu=PLENTY, cuda=PLENTY))
    generator: Any = models.generator(big_recipe(generator=Hungry), "cuda", pictured=True)
    ways = []

    def walk() -> Generator[Step, None, Any]:
        ways.append(generator.residence.enter())
        return generator.generate("a red mushroom", seed=0, steps=3, guidance=1.0)

    steps = list(models.trying("views", walk))
    assert ways == [WHOLE, TURNS, LAYERS]
    assert [step.step for step in steps] == [1, 0, 1, 0, 1, 2, 3]
    Hungry.failures, Hungry.tries = 1, 0
    with pytest.raises(MemoryError):
        list(models.trying("views", walk))


def test_only_want_of_memory_is_tried_again() -> None:
    def failing() -> Generator[Step, None, None]:
        yield Step(1, 2, "")
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(retried(failing, lambda: pytest.fail("nothing is to be spared")))
    for words in ("CUDA out of memory.", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"):
        assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    for device, stage in (("cpu", "views"), ("cuda", "reconstruct"), ("cuda", "texture")):
        error = out_of_memory(device, stage)
        assert error.message.endswith(".")
        assert error.fix.endswith(".")
    for stage in ("picture", "views", "reconstruct"):
        assert "starter" in out_of_memory("cuda", stage).fix, "fewer faces would not help a network"
    assert backend.memory.shares_memory("mps")
