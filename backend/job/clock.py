"""How far a job is and how long it will take: measured where it can be, the recipe's figures where not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backend.job.events import Progress

PROCESSOR = "cpu"


@dataclass(frozen=True)
class Work:
    """What a stage of a job does. by: the recipe, the weights, and what else tells one kind of work from others; guess:
    seconds on two CPU cores; amount: of steps, where there are any; device: what computes."""

    stage: str
    by: tuple[str, ...]
    guess: float
    amount: float = 1.0
    device: str = PROCESSOR


class Timings:
    """What stages took, for estimates of jobs to come.

    What was done before is expected to take as long again, for every step of it; what was not, as much longer or
    shorter than guessed as the last work on the same device.
    """

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, ...], float] = {}  # for an amount of 1
        self._pace: dict[str, float] = {}

    def learn(self, work: Work, seconds: float) -> None:
        """A stage has taken so long."""
        self._seconds[work.stage, *work.by] = seconds / max(work.amount, 1e-9)
        if work.guess > 0:
            self._pace[work.device] = seconds / work.guess

    def expected(self, work: Work) -> float:
        """Seconds."""
        known = self._seconds.get((work.stage, *work.by))
        return work.guess * self._pace.get(work.device, 1.0) if known is None else known * work.amount

    def knows(self, work: Work) -> bool:
        """Whether anything was measured that tells of it."""
        return (work.stage, *work.by) in self._seconds or work.device in self._pace


class Clock:
    """Turns a stage's own steps into the job's progress.

    work: what the stages of this job do, in order. Finished stages correct what the rest on the same device should
    take. timings: of earlier jobs.
    """

    def __init__(
        self,
        work: Mapping[str, Work],
        timings: Timings | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        timings = timings or Timings()
        self.work = dict(work)
        self._expected = {stage: timings.expected(each) for stage, each in work.items()}
        self._known = bool(work) and all(timings.knows(each) for each in work.values())
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

    @property
    def stage(self) -> str:
        """The one that runs, or ran last."""
        return self._stage

    def _pace(self, stage: str) -> float:
        """How much longer than expected the finished stages on the stage's device took."""
        finished = [each for each in self.seconds if each in self.work and self._device(each) == self._device(stage)]
        expected = sum(self._expected[each] for each in finished)
        return sum(self.seconds[each] for each in finished) / expected if expected else 1.0

    def _device(self, stage: str) -> str:
        return self.work[stage].device if stage in self.work else PROCESSOR

    def _eta(self, fraction: float) -> float | None:
        elapsed = self._now() - self._stage_began
        current = self._expected.get(self._stage, 0.0) * self._pace(self._stage)
        if fraction >= 0.1 and elapsed > 0.5:
            current = elapsed / fraction
        elif not self.seconds and not self._known:
            return None  # nothing was measured yet on this machine
        later = [stage for stage in self._expected if stage not in self.seconds and stage != self._stage]
        rest = sum(self._expected[stage] * self._pace(stage) for stage in later)
        return round(max(current - elapsed, 0.0) + rest, 1)
