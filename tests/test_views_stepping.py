"""Functions that call back, walked as generators."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from backend.views.stepping import stepped


def counting(tell: Callable[[int], None], told: list[int], count: int = 3) -> str:
    for number in range(count):
        tell(number)
        told.append(number)
    return "the end"


def test_steps_come_one_by_one_and_the_result_at_the_end() -> None:
    told: list[int] = []
    walk = stepped(lambda tell: counting(tell, told))
    assert told == [], "nothing runs before it is asked for"
    for number in range(3):
        assert next(walk) == number
        assert told == list(range(number)), "it stands still until it is asked for more"
    with pytest.raises(StopIteration) as end:
        next(walk)
    assert end.value.value == "the end"


def test_what_is_raised_inside_comes_out() -> None:
    def run(tell: Callable[[int], None]) -> None:
        tell(1)
        raise MemoryError("too small")

    walk = stepped(run)
    assert next(walk) == 1
    with pytest.raises(MemoryError, match="too small"):
        next(walk)


def test_closing_ends_it_at_the_step_and_leaves_no_thread() -> None:
    told: list[int] = []
    cleaned: list[bool] = []

    def run(tell: Callable[[int], None]) -> str:
        try:
            try:
                return counting(tell, told, 1000)
            except Exception:  # libraries swallow what they do not know
                return "swallowed"
        finally:
            cleaned.append(True)

    before = threading.active_count()
    walk = stepped(run)
    next(walk)
    next(walk)
    walk.close()
    assert told == [0]
    assert cleaned == [True]
    assert threading.active_count() == before
