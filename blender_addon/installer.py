"""Set Up: makes the backend's environment in the data folder, one step after another, on a thread of its own.

The thread runs subprocesses and puts lines into a queue; it touches nothing of Blender. What is already done is found
done, so a set-up that was interrupted goes on where it stopped (pip keeps what it downloaded in its own cache).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import environment, process_tree, torch_builds
from .client import Failure, Launch, clean_environment
from .environment import Home, Interpreter

KEPT_LINES = 400


@dataclass(frozen=True)
class Plan:
    """What Set Up is to make. build: a key of torch_builds.BUILDS."""

    home: Home
    code_folder: Path
    requirements: Path
    base_preference: str = ""
    own_python: str = ""
    build: str = "cpu"
    blender_folder: Path | None = None

    @property
    def fingerprint(self) -> str:
        """Changes when the environment has to be made anew."""
        return hashlib.sha256(self.requirements.read_bytes() + self.build.encode()).hexdigest()[:16]


class _Stopped(Exception):
    """Ends the thread's work; carries the failure to show, None after a cancel."""

    def __init__(self, failure: Failure | None) -> None:
        super().__init__()
        self.failure = failure


class SetUp:
    """One run of Set Up. `poll` from a timer takes over what the thread has said; `running` tells when it ended."""

    STEPS = ("Looking for a Python", "Making the environment", "Installing torch", "Installing the rest", "Warming up")
    SHARES = (0.02, 0.05, 0.55, 0.28, 0.10)  # of the time it all takes, for the bar

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.lines: list[str] = []
        self.step = self.STEPS[0]
        self.fraction = 0.0
        self.failure: Failure | None = None
        self.cancelled = False
        self._outgoing: queue.Queue[tuple[str, float, str]] = queue.Queue()
        self._ceiling = self._done_so_far = 0.0
        self._working_step = self.STEPS[0]
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._work, name="splatsmith-set-up", daemon=True)

    def start(self) -> SetUp:
        self._thread.start()
        return self

    @property
    def running(self) -> bool:
        return self._thread.is_alive() or not self._outgoing.empty()

    def poll(self) -> bool:
        """Takes over what is new; True when something changed. Never waits."""
        changed = False
        with contextlib.suppress(queue.Empty):
            while True:
                self.step, self.fraction, line = self._outgoing.get_nowait()
                changed = True
                if line:
                    self.lines.append(line)
        del self.lines[:-KEPT_LINES]
        return changed

    def cancel(self, wait: float = 5.0) -> None:
        """Ends the step that runs. What is installed stays, and the next Set Up goes on from there."""
        self.cancelled = True
        process = self._process
        if process is not None:
            process_tree.kill(process)
        if self._thread.is_alive():
            self._thread.join(timeout=wait)

    def wait(self) -> SetUp:
        """Blocks to the end: for command lines and tests."""
        self._thread.join()
        self.poll()
        return self

    # -- on the thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._make()
        except _Stopped as stopped:
            self.failure = stopped.failure
        except OSError as error:
            self.failure = Failure(
                "unwritable",
                f"The environment could not be written ({error}).",
                "Free some disk space, or choose another data folder in the preferences.",
            )
        except Exception as error:
            # Whatever it was, the panel must not call it done.
            self.failure = Failure("internal", f"Set Up stumbled ({error}).", "Press Set Up again, or report this.")
        self._say(self.step if self.failure or self.cancelled else "Done", 1.0, "")

    def _make(self) -> None:
        plan, home = self.plan, self.plan.home
        self._enter(0)
        if torch_builds.intel_mac():
            raise _Stopped(
                Failure(
                    "unsupported_device",
                    "Intel Macs have no current torch, numba or Blender, so the backend cannot run on this machine.",
                    "Use a Mac with Apple silicon, Windows or Linux.",
                )
            )
        bases = self._find_bases()
        suits = torch_builds.detect()
        if suits != plan.build:
            label = torch_builds.BUILDS[suits].label
            self._line(f"This machine could use {label}: choose it under Compute On and press Set Up again.")
        self._enter(1)
        home.path.mkdir(parents=True, exist_ok=True)
        marker = home.read_marker()
        if marker.get("fingerprint") == plan.fingerprint and environment.status(home, environ={}).ready:
            self._line("The environment is up to date.")
        else:
            home.marker.unlink(missing_ok=True)
            base = self._make_environment(bases)
            self._install()
            marker = {"fingerprint": plan.fingerprint, "base": str(base.base), "build": plan.build}
        self._enter(4)
        self._warm_up()
        home.marker.write_text(json.dumps(marker), encoding="utf-8")

    def _find_bases(self) -> list[Interpreter]:
        search = environment.find_bases(self.plan.base_preference, self.plan.own_python)
        if not search.found:
            for line in search.rejected:
                self._line(line)
            raise _Stopped(
                Failure(
                    "no_python",
                    f"No 64-bit Python {environment.version_range()} that can make environments was found.",
                    "Install one (python.org has it) and choose it as the base Python in the preferences.",
                )
            )
        return search.found

    def _make_environment(self, bases: list[Interpreter]) -> Interpreter:
        """Makes the bare environment on the first base that can, and returns that base."""
        home = self.plan.home
        existing = environment.probe(home.environment_python) if home.environment_python.is_file() else None
        for base in bases:
            if existing is not None and existing.base == base.base:
                self._line("Going on with the environment that is there.")
                return base
        for number, base in enumerate(bases, 1):
            if home.environment.exists():
                shutil.rmtree(home.environment)
            self._line(f"Building on {base}")
            # Having the module venv is not enough: some builds of Python lack the files that it copies.
            made = self._run(
                [str(base.path), "-m", "venv", str(home.environment)],
                "The environment could not be made.",
                "Choose another base Python in the preferences.",
                must=number == len(bases),
            )
            if made:
                return base
        raise AssertionError("the last attempt raises")

    def _install(self) -> None:
        plan = self.plan
        torch_pin, others = environment.read_requirements(plan.requirements)
        self._enter(2)
        build = torch_builds.BUILDS[plan.build]
        self._line(f"torch for {build.label}, about {build.megabytes} MB to download")
        attempts = torch_builds.pip_attempts(
            torch_pin, plan.build, not build.index or torch_builds.reachable(build.index)
        )
        for number, arguments in enumerate(attempts, 1):
            if arguments == [torch_pin] and len(attempts) > 1:
                self._line("PyTorch's own wheels are out of reach; taking the ordinary ones, which may be larger.")
            if self._pip(arguments, last=number == len(attempts)):
                break
        self._enter(3)
        self._pip(others, last=True)

    def _pip(self, arguments: list[str], last: bool) -> bool:
        python = str(self.plan.home.environment_python)
        options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--prefer-binary"]
        return self._run(
            [python, "-m", "pip", "install", *options, *arguments],
            "The backend's packages could not be installed.",
            "Look at the log above; without a network nothing can be downloaded. Set Up goes on where it stopped.",
            must=last,
        )

    def _warm_up(self) -> None:
        """Makes one very small object: proves that all of it works, and leaves the compiled kernels in the cache."""
        launch = Launch(self.plan.home.environment_python, self.plan.code_folder, self.plan.home.path)
        with tempfile.TemporaryDirectory(prefix="splatsmith-") as folder:
            small = ["--steps", "1", "--faces", "500", "--texture-size", "64", "--out", folder]
            self._run(
                launch.command("generate", "--prompt", "a red mug", *small),
                "The backend was installed but does not work.",
                "The log above says what is missing.",
                environment_variables=launch.environment(),
            )

    def _run(
        self,
        command: list[str],
        sentence: str,
        fix: str = "The log above says why.",
        must: bool = True,
        environment_variables: dict[str, str] | None = None,
    ) -> bool:
        """Runs one subprocess, its lines into the log. True on success; raises when it `must` succeed and does not."""
        if self.cancelled:
            raise _Stopped(None)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.plan.home.path,
            env=environment_variables or clean_environment(os.environ, self.plan.blender_folder, {}),
            creationflags=process_tree.CREATION_FLAGS,
            start_new_session=process_tree.NEW_SESSION,
        )
        assert process.stdout is not None
        job_object = process_tree.adopt(process)
        self._process = process
        if self.cancelled:  # just now, when there was no process to end yet
            process_tree.kill(process)
        try:
            for line in _lines(process.stdout):
                self._line(line)
            process.wait()
        finally:
            self._process = None
            process.stdout.close()
            process_tree.release(job_object)
        if self.cancelled:
            raise _Stopped(None)
        if process.returncode != 0 and must:
            raise _Stopped(Failure("set_up_failed", sentence, fix))
        return process.returncode == 0

    def _enter(self, index: int) -> None:
        self._ceiling = sum(self.SHARES[: index + 1])
        self._working_step = self.STEPS[index]
        self._done_so_far = sum(self.SHARES[:index])
        self._line("")

    def _line(self, text: str) -> None:
        # The bar creeps towards the end of its step with every line pip prints, and never over it.
        self._done_so_far += (self._ceiling - self._done_so_far) * 0.04 if text else 0.0
        self._say(self._working_step, self._done_so_far, text)

    def _say(self, step: str, fraction: float, line: str) -> None:
        self._outgoing.put((step, fraction, line))


def _lines(stream: IO[bytes]) -> Iterator[str]:
    for raw in stream:
        line = raw.decode("utf-8", "replace").rstrip()
        if line:
            yield line
