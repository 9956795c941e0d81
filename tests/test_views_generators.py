"""What all four published generators promise: a seed's views, a step at a time, an end wherever one is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from generator_cases import MAKERS, SOURCES
from picture_walks import walked
from torch import Tensor
from zero123plus_folder import write_folder

from backend.errors import UnsupportedDevice

STEPS = 3


@pytest.fixture(scope="module", params=MAKERS)
def named(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A generator's name, and a tiny one with random weights."""
    folder = tmp_path_factory.mktemp("published") / "zero123plus-v1.2"
    if request.param == "zero123plus":
        write_folder(folder)
    return request.param, MAKERS[request.param](folder)


@pytest.fixture
def unet_calls(named: tuple[str, Any]) -> Any:
    """Grows by one whenever the U-Net computes."""
    _, generator = named
    unet, calls = generator.residence.parts["unet"], []
    hook = unet.register_forward_pre_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


def test_each_denoising_step_is_told_with_a_preview_as_soon_as_it_is_done(
    named: tuple[str, Any], unet_calls: list[int]
) -> None:
    name, generator = named
    walk = generator.generate(**SOURCES[name], steps=STEPS, seed=1)
    a_step = {"sv3d": 2, "zero123plus": 2}.get(name, 1)  # passes of the network: without and with the picture
    for done in range(1, STEPS + 1):
        step = next(walk)
        assert len(unet_calls) == done * a_step
        assert (step.step, step.message != "") == (done, True)
        assert step.steps > STEPS, "the last step's views are not decoded yet"
        preview: Tensor = step.preview
        assert preview.shape[1] == 4
        assert min(preview.shape[2:]) >= 100
        assert 0 <= float(preview.min()) <= float(preview.max()) <= 1
    rest = list(walk)
    assert len(unet_calls) == STEPS * a_step
    assert rest[-1].step == rest[-1].steps


def test_it_ends_where_it_is_told_to_and_can_begin_again(named: tuple[str, Any], unet_calls: list[int]) -> None:
    name, generator = named
    walk = generator.generate(**SOURCES[name], steps=20, seed=1)
    next(walk)
    computed = len(unet_calls)
    walk.close()
    assert len(unet_calls) == computed
    assert next(walk, None) is None
    views, _ = walked(generator, **SOURCES[name])
    assert views.rgba.isfinite().all()


def test_a_seed_gives_the_same_views_and_another_does_not(named: tuple[str, Any]) -> None:
    """Whatever others draw from torch's own generator meanwhile."""
    name, generator = named
    first = walked(generator, seed=1, **SOURCES[name])[0].rgba
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(walked(generator, seed=1, **SOURCES[name])[0].rgba, first)
    assert torch.equal(torch.get_rng_state(), state), "nobody else's numbers are used up"
    other = walked(generator, seed=2, **SOURCES[name])[0].rgba
    assert float((other - first).abs().max()) > 0.01


def test_the_noise_is_drawn_on_the_processor(named: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on every device."""
    name, generator = named
    drawn: list[str] = []
    plain = torch.randn

    def watched(*size: Any, **options: Any) -> Tensor:
        source = options.get("generator")
        drawn.append("none" if source is None else str(source.device))
        return plain(*size, **options)

    monkeypatch.setattr(torch, "randn", watched)
    walked(generator, seed=1, **SOURCES[name])
    assert drawn
    assert set(drawn) == {"cpu"}


def test_what_comes_out_as_no_numbers_is_said_instead_of_painted_black(
    named: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, generator = named
    unet = generator.residence.parts["unet"]
    plain = unet.forward

    def broken(*given: Any, **more: Any) -> Any:
        made = plain(*given, **more)
        return made * float("nan") if isinstance(made, Tensor) else tuple(each * float("nan") for each in made)

    monkeypatch.setattr(unet, "forward", broken)
    with pytest.raises(UnsupportedDevice, match="no numbers") as caught:
        list(generator.generate(**SOURCES[name], steps=2, seed=1))
    assert caught.value.fix
