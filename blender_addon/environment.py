"""Where the backend lives on this machine, and which Python runs it. Knows neither Blender nor torch.

One per-user data folder holds everything that is not the user's own work: the environment, finished jobs, compiled
caches, logs. It does not depend on Blender's version, so several Blenders share it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import process_tree
from .client import Failure

OLDEST, NEWEST = (3, 11), (3, 13)  # the Pythons that torch, numba and the rest all have wheels for
PACKAGES = (
    "torch",
    "numpy",
    "numba",
    "scipy",
    "skimage",
    "xatlas",
    "fast_simplification",
    "trimesh",
    "PIL",
    "safetensors",
    "tqdm",
)

PROBE = """
import importlib.util, json, struct, sys
def has(name):
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:
        return False
print(json.dumps({
    "version": list(sys.version_info[:3]),
    "executable": sys.executable,
    "base": getattr(sys, "_base_executable", "") or sys.executable,
    "bits": struct.calcsize("P") * 8,
    "venv": has("venv") and has("ensurepip"),
    "missing": [name for name in sys.argv[1:] if not has(name)],
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """What a Python said of itself. missing: import names of the backend's packages that it does not have."""

    path: Path
    version: tuple[int, int, int]
    base: Path
    bits: int
    can_make_venv: bool
    missing: tuple[str, ...] = ()

    @property
    def supported(self) -> bool:
        return OLDEST <= self.version[:2] <= NEWEST and self.bits == 64

    def __str__(self) -> str:
        return f"Python {'.'.join(map(str, self.version))} at {self.path}"


@dataclass(frozen=True)
class Status:
    """Whether a backend can be started. python: its interpreter when `ready`; `failure` says what is in the way."""

    python: Path | None
    failure: Failure | None = None
    chosen_by_user: bool = False

    @property
    def ready(self) -> bool:
        return self.failure is None and self.python is not None


@dataclass(frozen=True)
class Home:
    """The per-user data folder and what is where in it."""

    path: Path

    @property
    def environment(self) -> Path:
        return self.path / "environment"

    @property
    def environment_python(self) -> Path:
        inside = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
        return self.environment.joinpath(*inside)

    @property
    def marker(self) -> Path:
        """Written last when the environment is made: its presence means that all of it is there."""
        return self.environment / "splatsmith.json"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def read_marker(self) -> dict[str, object]:
        try:
            content = json.loads(self.marker.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def home_folder(preference: str = "", environ: Mapping[str, str] = os.environ, system: str = sys.platform) -> Home:
    """The data folder: SPLATSMITH_HOME, else the preference, else the platform's place for per-user data."""
    chosen = environ.get("SPLATSMITH_HOME") or preference
    if chosen:
        return Home(Path(chosen).expanduser().absolute())
    user = Path.home()
    if system == "win32":
        return Home(Path(environ.get("LOCALAPPDATA") or user / "AppData" / "Local") / "Splatsmith")
    if system == "darwin":
        return Home(user / "Library" / "Application Support" / "Splatsmith")
    return Home(Path(environ.get("XDG_DATA_HOME") or user / ".local" / "share") / "splatsmith")


def code_folder(addon_folder: Path, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that contains `backend/`: the add-on's own in an installed zip, its parent in a checkout."""
    override = environ.get("SPLATSMITH_BACKEND_FOLDER")
    candidates = [Path(override)] if override else [addon_folder, addon_folder.parent]
    for folder in candidates:
        if (folder / "backend" / "__main__.py").is_file():
            return folder.absolute()
    return None


def status(home: Home, preference: str = "", environ: Mapping[str, str] = os.environ) -> Status:
    """Which Python runs the backend: SPLATSMITH_BACKEND_PYTHON, else the preference, else the one Set Up made.

    Looks at files only and starts nothing, so that a panel may ask.
    """
    chosen = environ.get("SPLATSMITH_BACKEND_PYTHON") or preference
    if chosen:
        python = Path(chosen).expanduser()
        if python.is_file():
            return Status(python.absolute(), chosen_by_user=True)
        failure = Failure(
            "no_python",
            f"The chosen Python {python} does not exist.",
            "Choose another in the preferences, or clear it.",
        )
        return Status(None, failure, chosen_by_user=True)
    if not home.marker.is_file():
        half_done = home.environment.exists()
        message = "The backend's set-up was not finished." if half_done else "The backend is not set up yet."
        return Status(None, Failure("not_set_up", message, "Press Set Up in the add-on's preferences."))
    # A link to an interpreter that was uninstalled is no file; on Windows the base is named in pyvenv.cfg alone.
    base = str(home.read_marker().get("base") or "")
    if not home.environment_python.is_file() or (base and not Path(base).exists()):
        return Status(
            None,
            Failure(
                "python_vanished",
                "The Python that the backend was set up with is gone from this machine.",
                "Press Set Up in the add-on's preferences to make the backend's environment anew.",
            ),
        )
    return Status(home.environment_python)


def probe(python: Path, packages: Iterable[str] = (), seconds: float = 30.0) -> Interpreter | None:
    """Asks a Python what it is and which packages it lacks; None when it cannot be run."""
    from .client import clean_environment

    try:
        done = subprocess.run(
            [str(python), "-c", PROBE, *packages],
            capture_output=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            env=clean_environment(os.environ, None, {}),
            creationflags=process_tree.CREATION_FLAGS,
        )
        said = json.loads(done.stdout.decode("utf-8", "replace").strip().splitlines()[-1])
        major, minor, micro = said["version"]
        return Interpreter(
            path=python,
            version=(major, minor, micro),
            base=Path(said["base"]),
            bits=said["bits"],
            can_make_venv=said["venv"],
            missing=tuple(said["missing"]),
        )
    except (OSError, subprocess.TimeoutExpired, ValueError, LookupError, TypeError):
        return None


@dataclass
class BaseSearch:
    """The Pythons to build the backend's environment on, best first. rejected: why the others will not do."""

    found: list[Interpreter] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)


def find_bases(
    preference: str = "",
    own_python: str = "",
    ask: Callable[[Path], Interpreter | None] = probe,
    which: Callable[[str], str | None] = shutil.which,
) -> BaseSearch:
    """Pythons of a supported version that can make environments.

    preference: the user's choice, taken alone if given; own_python: Blender's (sys.executable), taken first, for it is
    on every machine that has Blender; then what PATH has, newest first.
    """
    search = BaseSearch()
    if preference:
        candidates = [Path(preference).expanduser()]
    else:
        names = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)] + ["python3", "python"]
        found = [which(name) for name in names]
        candidates = [Path(name) for name in (own_python, *found) if name]
    for candidate in dict.fromkeys(candidates):
        interpreter = ask(candidate)
        if interpreter is None:
            search.rejected.append(f"{candidate} does not run as a Python")
        elif not interpreter.supported:
            search.rejected.append(f"{interpreter} is not a 64-bit Python {version_range()}")
        elif not interpreter.can_make_venv:
            search.rejected.append(f"{interpreter} has no venv module (on Debian: the package python3-venv)")
        else:
            search.found.append(interpreter)
    return search


def version_range() -> str:
    return f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"


def read_requirements(path: Path) -> tuple[str, list[str]]:
    """The torch pin and the other pins of requirements.txt."""
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pins = [line for line in lines if line]
    torch = [pin for pin in pins if pin.startswith("torch==")]
    return torch[0], [pin for pin in pins if pin not in torch]
