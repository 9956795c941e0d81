"""How far a job is and how long it will take: measured where it can be, the recipe's figures where not."""

from __future__ import annotations

import time
from collections.abc import Callable

from backend.events import Progress


class Clock:
    """Turns a stage's own steps into the job's progress.

    expected: seconds each stage of this job should take, in order. Finished stages correct what the rest should take.
    """

    def __init__(self, expected: dict[str, float], now: Callable[[], float] = time.perf_counter) -> None:
        self._expected = dict(expected)
        self._now = now
        self._stage = ""
        self._stage_began = self.began = now()
        self.seconds: dict[str, float] = {}

    def begin(self, stage: str, message: str = "") -> Progress:
        """The stage that runs from now on."""
        self._stage, self._stage_began = stage, self._now()
        return self.at(0, 1, message)

    def end(self) -> None:
        """The stage is done: its measured time replaces what was expected."""
        taken = self._now() - self._stage_began
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + taken

    def at(self, step: int, steps: int, message: str) -> Progress:
        """Step `step` of `steps` of the running stage is done."""
        fraction = min(max(step / max(steps, 1), 0.0), 1.0)
        total = sum(self._expected.values()) or 1.0
        done = sum(seconds for stage, seconds in self._expected.items() if stage in self.seconds)
        overall = (done + fraction * self._expected.get(self._stage, 0.0)) / total
        return Progress(self._stage, fraction, min(overall, 1.0), step, steps, message, self._eta(fraction))

    def _eta(self, fraction: float) -> float | None:
        finished = [stage for stage in self.seconds if stage in self._expected]
        expected = sum(self._expected[stage] for stage in finished)
        pace = sum(self.seconds[stage] for stage in finished) / expected if expected else 1.0
        elapsed = self._now() - self._stage_began
        current = self._expected.get(self._stage, 0.0) * pace
        if fraction >= 0.1 and elapsed > 0.5:
            current = elapsed / fraction
        elif not finished:
            return None  # nothing was measured yet on this machine
        later = [seconds for stage, seconds in self._expected.items() if stage not in self.seconds]
        rest = sum(later) - self._expected.get(self._stage, 0.0)
        return round(max(current - elapsed, 0.0) + max(rest, 0.0) * pace, 1)
