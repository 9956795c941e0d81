"""How far a job is and how long it will take."""

from __future__ import annotations

import pytest

from backend.clock import Clock


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_overall_follows_the_expected_shares() -> None:
    clock = Clock({"views": 30.0, "mesh": 10.0}, now=Time())
    assert clock.begin("views").overall == 0.0
    assert clock.at(1, 2, "").overall == pytest.approx(30 / 40 / 2)
    clock.end()
    assert clock.begin("mesh").overall == pytest.approx(0.75)
    assert clock.at(2, 2, "").overall == pytest.approx(1.0)


def test_the_time_left_is_measured_as_soon_as_it_can_be() -> None:
    now = Time()
    clock = Clock({"views": 30.0, "mesh": 10.0}, now=now)
    assert clock.begin("views").eta is None  # nothing is known of this machine yet
    now.seconds += 30.0
    assert clock.at(1, 2, "").eta == pytest.approx(30 + 10)  # half took 30 s, so the stage takes 60
    now.seconds += 30.0
    clock.end()
    assert clock.seconds == {"views": 60.0}
    assert clock.begin("mesh").eta == pytest.approx(20)  # the machine is half as fast as expected
    now.seconds += 50.0
    assert clock.at(0, 1, "").eta == 0.0  # late, but never less than nothing


def test_steps_out_of_range_do_no_harm() -> None:
    clock = Clock({"views": 1.0}, now=Time())
    clock.begin("views")
    assert clock.at(5, 0, "").fraction == 1.0
    assert clock.at(-1, 4, "").fraction == 0.0
    assert clock.at(9, 4, "").overall == 1.0
    assert Clock({}, now=Time()).begin("views").overall == 0.0
