"""How far a job is and how long it will take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stand_ins
from pipeline_runs import run

from backend import recipes
from backend.job.clock import Clock, Timings, Work
from backend.job.events import Progress
from backend.job.models import Models


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def works(device: str = "cpu", **seconds: float) -> dict[str, Work]:
    """Of one recipe; networks run on the device."""
    return {
        stage: Work(stage, ("recipe",), guess, device=device if stage in ("views", "reconstruct") else "cpu")
        for stage, guess in seconds.items()
    }


def test_overall_follows_the_expected_shares() -> None:
    clock = Clock(works(views=30.0, surface=10.0), now=Time())
    assert clock.begin("views").overall == 0.0
    assert clock.at(1, 2, "").overall == pytest.approx(30 / 40 / 2)
    clock.end()
    assert clock.begin("surface").overall == pytest.approx(0.75)
    assert clock.at(2, 2, "").overall == pytest.approx(1.0)


def test_the_time_left_is_measured_as_soon_as_it_can_be() -> None:
    now = Time()
    clock = Clock(works(views=30.0, surface=10.0), now=now)
    assert clock.begin("views").eta is None  # nothing is known of this machine yet
    now.seconds += 30.0
    assert clock.at(1, 2, "").eta == pytest.approx(30 + 10)  # half took 30 s, so the stage takes 60
    now.seconds += 30.0
    clock.end()
    assert clock.seconds == {"views": 60.0}
    assert clock.begin("surface").eta == pytest.approx(20)  # the machine is half as fast as expected
    now.seconds += 50.0
    assert clock.at(0, 1, "").eta == 0.0  # late, but never less than nothing


def test_a_quick_gpu_does_not_make_the_processor_quick() -> None:
    now = Time()
    clock = Clock(works("cuda", views=600.0, reconstruct=20.0, surface=8.0), now=now)
    clock.begin("views")
    now.seconds += 6.0
    clock.end()
    assert clock.begin("reconstruct").eta == pytest.approx(0.2 + 8.0)


def test_what_was_measured_is_expected_again_for_the_same_work_only() -> None:
    timings = Timings()
    quick = Work("views", ("starter", "dmv3d"), 14.0, amount=25)
    slow = Work("views", ("lgm", "mvdream"), 600.0, amount=30)
    assert timings.expected(slow) == 600.0
    assert not timings.knows(slow)
    timings.learn(quick, 7.0)
    assert timings.expected(quick) == pytest.approx(7.0)
    assert timings.expected(slow) == pytest.approx(300.0)  # this machine is twice as quick as guessed
    timings.learn(slow, 450.0)
    assert timings.expected(slow) == pytest.approx(450.0)
    assert timings.expected(quick) == pytest.approx(7.0)
    assert timings.expected(Work("views", ("lgm", "mvdream"), 200.0, amount=10)) == pytest.approx(150.0)
    on_gpu = Work("views", ("lgm", "mvdream", "cuda"), 600.0, amount=30, device="cuda")
    assert timings.expected(on_gpu) == 600.0


def test_the_second_job_knows_its_time_from_the_start() -> None:
    now, timings = Time(), Timings()
    work = works(views=30.0, surface=10.0)
    for each in work.values():
        timings.learn(each, 3.0)
    assert Clock(work, timings, now).begin("views").eta == pytest.approx(6.0)


def test_steps_out_of_range_do_no_harm() -> None:
    clock = Clock(works(views=1.0), now=Time())
    clock.begin("views")
    assert clock.at(5, 0, "").fraction == 1.0
    assert clock.at(-1, 4, "").fraction == 0.0
    assert clock.at(9, 4, "").overall == 1.0
    assert Clock({}, now=Time()).begin("views").overall == 0.0


def test_the_first_estimate_after_a_change_of_recipe_is_that_recipes_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What another recipe took says nothing but how quick the machine is."""
    guess = stand_ins.TINY.from_text
    assert guess is not None
    slow = replace(stand_ins.TINY, name="slow", from_text=replace(guess, pack="slow", seconds=1000 * guess.seconds))
    monkeypatch.setitem(recipes.RECIPES, "starter", stand_ins.TINY)
    monkeypatch.setitem(recipes.RECIPES, "slow", slow)
    models = Models()

    def first_estimate(name: str, **options: Any) -> float | None:
        job = {"recipe": name, "prompt": "a red mushroom", "to_stage": "views", "device": "cpu"} | options
        events = run(tmp_path / name, models=models, **job)
        return next(event.eta for event in events if isinstance(event, Progress))

    assert first_estimate("starter") is None  # nothing was measured
    key = ("views", "starter", "dmv3d", "cpu")
    assert key in models.timings._seconds
    models.timings._seconds[key], models.timings._pace = (
        0.2,
        {"cpu": 0.1},
    )  # as if each of three steps had taken so long
    assert first_estimate("starter") == pytest.approx(0.6)
    models.timings._pace = {"cpu": 0.1}
    assert first_estimate("slow") == pytest.approx(100 * guess.seconds)
    assert (first_estimate("slow", steps=6) or 0) < 10  # now it was done
