"""Where the four generators' parts lie, decided from made-up figures of free memory, on a made-up graphics card.

Off the card, weights are made not-a-number: what computes with a part that is not there shows in the views.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from generator_cases import MAKERS, SOURCES
from picture_walks import walked
from torch import Tensor, nn
from zero123plus_folder import write_folder

from backend.memory import LAYERS, RESERVE, TURNS, WHOLE
from backend.views.residence import Residence, module_bytes

WORKING = 1000


class Card:
    """Weights have their values on it only. free: bytes; there: what lies on it, by the parts' names; most: bytes of
    weights at once."""

    def __init__(self, parts: dict[str, nn.Module], free: int) -> None:
        self.parts, self.free = parts, free
        self.values = {p: p.data.clone() for part in parts.values() for p in part.parameters()}
        self.by_pointer: dict[int, Tensor] = {}
        self.there: set[str] = set()
        self.moves: list[tuple[str, str]] = []
        self.most = self.fetched = 0
        for part in parts.values():
            self._empty(part)

    def _empty(self, part: nn.Module) -> None:
        for parameter in part.parameters():
            blank = torch.full_like(parameter.data, float("nan"))
            self.by_pointer[blank.data_ptr()] = self.values[parameter]
            parameter.data = blank

    def move(self, part: nn.Module, device: str) -> None:
        name = next(name for name, each in self.parts.items() if each is part)
        self.moves.append((name, device))
        if device == "cpu":
            self._empty(part)
            self.there.discard(name)
            return
        for parameter in part.parameters():
            parameter.data = self.values[parameter]
        self.there.add(name)
        self.most = max(self.most, sum(module_bytes(self.parts[each]) for each in self.there))

    def fetch(self, weights: Tensor) -> Tensor:
        self.fetched += 1
        return self.by_pointer.get(weights.data_ptr(), weights)  # buffers have theirs everywhere


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("published") / "zero123plus-v1.2")


def on_card(generator: Any, free: int) -> tuple[Card, Residence]:
    """The generator, as if it had a card of its own with so much room."""
    parts = generator.residence.parts
    card = Card(parts, free)
    generator.residence = Residence(
        parts, "cuda", dict.fromkeys(parts, WORKING), free=lambda _: card.free, move=card.move, fetch=card.fetch
    )
    return card, generator.residence


def views(generator: Any, name: str) -> Tensor:
    return walked(generator, seed=3, **SOURCES[name])[0].rgba


@pytest.mark.parametrize("name", MAKERS)
def test_whatever_fits_the_views_are_the_same(name: str, folder: Path) -> None:
    generator = MAKERS[name](folder)
    sizes = {part: module_bytes(module) for part, module in generator.residence.parts.items()}
    plain = views(generator, name)
    card, residence = on_card(generator, sum(sizes.values()) + WORKING + RESERVE)
    assert torch.equal(views(generator, name), plain)
    assert (residence.way, card.there, card.most) == (WHOLE, set(sizes), sum(sizes.values()))
    residence.leave()
    assert card.there == set()

    card.free, card.most, card.moves = card.free - 1, 0, []
    assert torch.equal(views(generator, name), plain)
    assert (residence.way, card.most) == (TURNS, max(sizes.values()))
    assert {part for part, _ in card.moves} == set(sizes)
    assert len(card.there) == 1
    residence.leave()
    assert card.there == set()

    card.free, card.most = max(sizes.values()) + WORKING + RESERVE - 1, 0
    assert torch.equal(views(generator, name), plain)
    assert residence.way == LAYERS
    streamed = max(sizes, key=lambda part: sizes[part])  # at full size, the U-Net
    assert card.most == max(size for part, size in sizes.items() if part != streamed)
    assert card.fetched > 0
    residence.leave()
    assert card.there == set()
    assert all(parameter.isnan().all() for parameter in generator.residence.parts[streamed].parameters())

    card.free = 2**60  # and all over again, as if nothing had been
    assert torch.equal(views(generator, name), plain)
    assert residence.way == WHOLE


def test_after_too_little_memory_the_next_way_is_taken(folder: Path) -> None:
    generator = MAKERS["zero123plus"](folder)
    _, residence = on_card(generator, 2**60)
    for way in (WHOLE, TURNS, LAYERS):
        assert residence.enter() == way
        assert residence.enter() == way  # no matter how often
        assert residence.thriftier() == (way != LAYERS)
    residence.leave()
    assert residence.enter() == LAYERS  # what proved too little once is not tried again
    assert not residence.thriftier()


def test_a_failure_within_a_layer_leaves_nothing_behind(folder: Path) -> None:
    generator = MAKERS["sv3d"](folder)
    plain = views(generator, "sv3d")
    card, residence = on_card(generator, 0)
    fetch, calls = card.fetch, []

    def failing(weights: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fetch(weights)

    residence._fetch = failing
    with pytest.raises(torch.OutOfMemoryError):
        views(generator, "sv3d")
    assert all(parameter.isnan().all() for parameter in residence.parts["unet"].parameters())
    assert torch.equal(views(generator, "sv3d"), plain)


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_on_the_machines_own_memory_nothing_moves(device: str) -> None:
    moves: list[str] = []
    residence = Residence({"unet": nn.Linear(3, 3)}, device, {}, free=lambda _: 0, move=lambda _, to: moves.append(to))
    assert residence.enter() == WHOLE
    residence.leave()
    assert not residence.thriftier()
    assert moves == [device]


def test_the_maker_of_pictures_moves_in_the_same_ways() -> None:
    import text_to_image_cases

    from backend.views.text_to_image import TextToImage
    from backend.views.text_to_image_untrained import untrained_pipeline

    maker = TextToImage(untrained_pipeline(text_to_image_cases.SMALL))

    def picture() -> Tensor:
        walk = maker.generate("a red mug", steps=2, seed=3)
        while True:
            try:
                next(walk)
            except StopIteration as end:
                return end.value

    plain = picture()
    card, residence = on_card(maker, 0)
    largest, both = max(map(module_bytes, residence.parts.values())), sum(map(module_bytes, residence.parts.values()))
    for room, way in ((both, WHOLE), (largest, TURNS), (0, LAYERS)):
        card.free = room + WORKING + RESERVE
        assert torch.equal(picture(), plain)
        assert residence.way == way
        residence.leave()
        assert card.there == set()
