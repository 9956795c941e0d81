"""Builds the extension, shows it at work, tests it. Needs a Python and nothing else.

    python3 build_addon.py demo     a text prompt becomes an object in a real Blender without a window; says where
    python3 build_addon.py test     all tests, in the backend's environment and in Blender's
    python3 build_addon.py zip      the extension as dist/splatsmith-VERSION.zip, the same bytes from the same commit

`demo` and `test` make their environments in .environments/ first and find them done the next time.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent
ADDON = ROOT / "blender_addon"
ENVIRONMENTS = ROOT / ".environments"
REQUIREMENTS = ADDON / "requirements.txt"  # the backend's pins; what only a checkout needs is pinned here
DEVELOPMENT_PINS = ["pytest==9.2.0", "ruff==0.17.5", "mypy==2.4.1"]
BPY_PINS = {  # the bpy wheels are each made for one Python
    (3, 11): ["bpy==4.5.15", "numpy==1.26.4", "pytest==9.2.0"],
    (3, 13): ["bpy==5.2.3", "numpy==2.4.6", "pytest==9.2.0"],
}
OLDEST_BLENDER = (4, 2)
LEFT_OUT = ("batch.py", "backend/training/")  # of the zip: what only a checkout can use
NO_TESTS_LEFT = 5  # pytest's exit code when -k or a path leaves none in one of the environments
DEFAULT_PROMPT = "a red mushroom with a white stem"


class Stop(Exception):
    """Ends the program with one sentence."""


def main() -> int:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        found = "{}.{}".format(*sys.version_info[:2])
        print(f"Splatsmith needs Python 3.11, 3.12 or 3.13, and this is {found}: try python3.11 {sys.argv[0]} ...")
        return 2
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a console may not know a prompt's letters
    parser = _parser()
    options, more = parser.parse_known_args()
    if more and options.run is not run_test:
        parser.error(f"unrecognised arguments: {' '.join(more)}")
    options.pytest_arguments = more
    try:
        return options.run(options)
    except Stop as stop:
        print(f"\n{stop}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(metavar="demo | test | zip", required=True)
    zipped = commands.add_parser("zip", help="build the extension")
    zipped.add_argument("--out", type=Path, metavar="FILE.zip", help="where to (dist/splatsmith-VERSION.zip)")
    zipped.set_defaults(run=run_zip)
    demo = commands.add_parser("demo", help="make an object in a real Blender")
    demo.add_argument("--prompt", help=f"what to make ({DEFAULT_PROMPT!r})")
    demo.add_argument("--image", type=Path, help="a picture to make it from instead")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--faces", type=int, default=20_000)
    demo.add_argument("--texture-size", type=int, default=1024)
    demo.add_argument("--out", type=Path, default=ROOT / "demo_output", metavar="DIR")
    demo.set_defaults(run=run_demo)
    test = commands.add_parser("test", help="run all tests; what follows goes to pytest, for example -k importer")
    test.set_defaults(run=run_test)
    return parser


# -- zip ------------------------------------------------------------------------------------------------------------


def run_zip(options: argparse.Namespace) -> int:
    path = options.out or ROOT / "dist" / f"splatsmith-{_version()}.zip"
    path = path.absolute()
    build_zip(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB  sha256 {digest}")
    return 0


def build_zip(path: Path) -> None:
    """The add-on with the backend inside it. Sorted names, one date, one mode: the same files give the same bytes."""
    members = {"LICENSE": ROOT / "LICENSE"}
    for folder, prefix in ((ADDON, ""), (ROOT / "backend", "backend/")):
        for source in _files(folder):
            name = prefix + source.relative_to(folder).as_posix()
            if not name.startswith(LEFT_OUT) and "__pycache__" not in name:
                members[name] = source
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with zipfile.ZipFile(partial, "w") as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0))
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3  # else it names the system the zip was made on
            # Stored, not deflated: weights do not shrink, and deflate's bytes depend on the zlib at hand.
            archive.writestr(entry, _portable(members[name]))
    os.replace(partial, path)


def _portable(source: Path) -> bytes:
    content = source.read_bytes()
    # A checkout on Windows may have other line ends.
    return content if b"\0" in content else content.replace(b"\r\n", b"\n")


def _files(folder: Path) -> list[Path]:
    """The tracked files where git knows them, else all there are: a zip must not carry what lies about."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--", str(folder)]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode("utf-8").split("\0")
        tracked = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        tracked = []
    return [path for path in tracked or sorted(folder.rglob("*")) if path.is_file()]


def _version() -> str:
    found = re.search(r'^version = "(.+)"', (ADDON / "blender_manifest.toml").read_text(encoding="utf-8"), re.M)
    if found is None:
        raise Stop("blender_manifest.toml names no version.")
    return found.group(1)


# -- environments ---------------------------------------------------------------------------------------------------


def environments(development: bool, with_bpy: bool) -> tuple[Path, Path]:
    """The Pythons of the backend's environment and, if asked for, of Blender's; made at the same time."""
    with ThreadPoolExecutor() as pool:
        bpy = pool.submit(bpy_environment) if with_bpy else None
        backend = backend_environment(development)
        return backend, bpy.result() if bpy is not None else Path()


def backend_environment(development: bool) -> Path:
    """The Python of .environments/backend with torch and the rest; for `development` with pytest, ruff, mypy, and what
    the models of others need."""
    if torch_builds().intel_mac():
        raise Stop("Intel Macs have no current torch, numba or Blender, so Splatsmith cannot run on this machine.")
    build = torch_builds().detect()
    (torch_pin, *others), published = pins()

    def install(python: Path) -> None:
        _install_torch(python, torch_pin, build)
        _pip(python, others)

    python = _environment("backend", Path(sys.executable), [torch_pin, build, *others], install)
    stamp = ENVIRONMENTS / "backend" / "development.json"
    more = [*published, *DEVELOPMENT_PINS]
    if development and _read(stamp) != json.dumps(more):
        _pip(python, more)
        stamp.write_text(json.dumps(more), encoding="utf-8")
    return python


def pins() -> tuple[list[str], list[str]]:
    """The backend's pins, torch first, and those that only the models of others need."""
    lines = [line.partition("#") for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    found = [(pin.strip(), mark.strip() == "published") for pin, _, mark in lines if pin.strip()]
    return [pin for pin, published in found if not published], [pin for pin, published in found if published]


def _install_torch(python: Path, pin: str, build: str) -> None:
    """torch for this machine's device, and whatever torch pip finds where that is out of reach.

    Where PyTorch's index does not answer (a mirror, a wheel folder), asking it costs seconds here, not pip's many
    patient retries; pip's own configuration is always asked as well.
    """
    index = torch_builds().BUILDS[build].index
    attempts = torch_builds().pip_attempts(pin, build, not index or torch_builds().reachable(index))
    attempts += [[pin]] if [pin] not in attempts else []
    for number, arguments in enumerate(attempts, 1):
        if number > 1 and arguments == [pin]:
            print("  PyTorch's own wheels are out of reach; taking the ordinary ones, which may be larger.")
        if _pip(python, arguments, must=number == len(attempts)):
            return


def torch_builds() -> ModuleType:
    """The add-on's table of torch builds."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module("blender_addon.torch_builds")


def bpy_environment() -> Path:
    """The Python of .environments/bpy: Blender as a module, with the older numpy it was made for."""
    for version, pins in BPY_PINS.items():
        base = _python_of(version)
        if base is not None:
            return _environment("bpy", base, pins, functools.partial(_pip, arguments=pins))
    raise Stop("The bpy wheel needs Python 3.11 or 3.13: install one, or set BLENDER to a Blender 4.2 or newer.")


def _python_of(version: tuple[int, int]) -> Path | None:
    if sys.version_info[:2] == version:
        return Path(sys.executable)
    numbers = "{}.{}".format(*version)
    launcher = ["py", f"-{numbers}"] if os.name == "nt" else [f"python{numbers}"]
    if shutil.which(launcher[0]) is None:
        return None
    try:  # a name on PATH may be a manager's signpost to a Python that is not installed
        asked = subprocess.run([*launcher, "-c", "import sys; print(sys.executable)"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Path(asked.stdout.decode().strip()) if asked.returncode == 0 else None


def _environment(name: str, base: Path, pins: list[str], install: Callable[[Path], object]) -> Path:
    """The Python of .environments/NAME, made on `base` unless a stamp of the same pins says that it is there."""
    folder = ENVIRONMENTS / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp, wanted = folder / "pins.json", json.dumps([str(base), *pins])
    if _read(stamp) == wanted and python.exists():
        return python
    print(f"Making {folder} ...", flush=True)
    started = time.monotonic()
    if folder.exists():
        shutil.rmtree(folder)
    made = subprocess.run([str(base), "-m", "venv", str(folder)], env=_plain_environment())
    if made.returncode != 0:
        raise Stop(f"{base} cannot make environments; on Debian and Ubuntu install the package python3-venv.")
    install(python)
    stamp.write_text(wanted, encoding="utf-8")
    print(f"Made {folder} in {time.monotonic() - started:.0f} s", flush=True)
    return python


def _pip(python: Path, arguments: list[str], must: bool = True) -> bool:
    print(f"  pip install {' '.join(arguments)}", flush=True)
    options = ["--disable-pip-version-check", "--no-input", "--quiet", "--prefer-binary"]
    done = subprocess.run([str(python), "-m", "pip", "install", *options, *arguments], env=_plain_environment())
    if done.returncode != 0 and must:
        raise Stop("The packages could not be installed; the lines above say why. Run the same command to go on.")
    return done.returncode == 0


def _plain_environment(**additions: str) -> dict[str, str]:
    """Our environment without what would send another Python astray."""
    kept = {key: value for key, value in os.environ.items() if key not in {"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"}}
    return {**kept, "PYTHONUTF8": "1", **additions}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


# -- demo -----------------------------------------------------------------------------------------------------------


def run_demo(options: argparse.Namespace) -> int:
    started = time.monotonic()
    blender = _find_blender()
    python, bpy = environments(development=False, with_bpy=blender is None)
    script = str(ADDON / "batch.py")
    command = [str(bpy), script]
    if blender is not None:
        command = [blender, "--background", "--factory-startup", "--python-exit-code", "1", "--python", script]
    print(f"Blender: {blender or 'the bpy wheel'}")
    out = options.out.absolute()
    command += ["--", "--out", str(out), "--seed", str(options.seed), "--faces", str(options.faces)]
    command += ["--texture-size", str(options.texture_size), "--empty"]
    command += ["--save", str(out / "splatsmith_demo.blend"), "--render", str(out / "splatsmith_demo.png")]
    command += ["--image", str(options.image.absolute())] if options.image else []
    if options.prompt or not options.image:
        command += ["--prompt", options.prompt or DEFAULT_PROMPT]
    ready = time.monotonic()
    if not _follow(command, _own_backend(python)):
        return 1
    print(f"\nIn {out}:")
    names = ("splatsmith_demo.blend", "splatsmith_demo.png", "mesh.glb", "gaussians.ply", "views", "report.json")
    for name in names:
        print(f"  {name}{'' if (out / name).exists() else '  (missing)'}")
    print(f"Environments {ready - started:.0f} s, the object {time.monotonic() - ready:.0f} s.")
    return 0 if all((out / name).exists() for name in names) else 1


def _own_backend(python: Path) -> dict[str, str]:
    """The environment in which the add-on uses the checkout's backend and leaves the user's data folder alone."""
    home = ENVIRONMENTS / "data"
    return _plain_environment(
        SPLATSMITH_BACKEND_PYTHON=str(python), SPLATSMITH_HOME=str(home), NUMBA_CACHE_DIR=str(home / "numba")
    )


def _find_blender() -> str | None:
    """$BLENDER, else a `blender` on PATH, if new enough; None for the bpy wheel."""
    chosen = os.environ.get("BLENDER")
    for candidate in [chosen] if chosen else [shutil.which("blender")]:
        version = _blender_version(candidate) if candidate else None
        if version is not None and version >= OLDEST_BLENDER:
            return candidate
        if chosen:
            raise Stop(
                f"BLENDER is set to {chosen}, which is no Blender {'.'.join(map(str, OLDEST_BLENDER))} or newer."
            )
        if version is not None:
            print(f"{candidate} is Blender {version[0]}.{version[1]}, too old; taking the bpy wheel.")
    return None


def _blender_version(program: str) -> tuple[int, int] | None:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, timeout=120).stdout.decode(
            "utf-8", "replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"Blender (\d+)\.(\d+)", said)
    return (int(found.group(1)), int(found.group(2))) if found else None


def _follow(command: list[str], environment: dict[str, str]) -> bool:
    """Runs the batch script and tells its JSON lines in words. True when an object was made and all else went well."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    stage, noise = "", [""]
    for raw in process.stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        try:
            event = json.loads(line) if line.startswith("{") else {}
        except ValueError:
            event = {}
        noise = [*noise[-20:], line] if not event else noise
        kind = event.get("event")
        if kind == "progress" and event["stage"] != stage:
            stage = event["stage"]
            print(f"  {event['overall']:4.0%}  {stage}", flush=True)
        elif kind == "made":
            print(f"  made {event['object']!r} in {event['seconds']:.1f} s")
            for warning in event["warnings"]:
                print(f"  note: {warning}")
        elif kind == "failed":
            print(f"  {event['message']} {event['fix']}")
    if process.wait() != 0:
        print("\n".join(noise), file=sys.stderr)
    return process.returncode == 0


# -- test -----------------------------------------------------------------------------------------------------------


def run_test(options: argparse.Namespace) -> int:
    """Style, types, and the tests of both environments; all of them even when one fails."""
    backend, bpy = environments(development=True, with_bpy=True)
    environment = _own_backend(backend)
    more = options.pytest_arguments
    python = str(backend)
    steps = {
        "ruff check": [python, "-m", "ruff", "check", "."],
        "ruff format": [python, "-m", "ruff", "format", "--check", "."],
        "mypy": [python, "-m", "mypy"],
        "tests": [python, "-m", "pytest", "-q", "tests", "--ignore=tests/blender", *more],
        "tests in Blender": [str(bpy), "-m", "pytest", "-q", "tests/blender", *more],
    }
    results = {}
    for name, command in steps.items():
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, env=environment).returncode
        code = 0 if code == NO_TESTS_LEFT and more else code
        results[name] = (code, time.monotonic() - started)
    print()
    for name, (code, seconds) in results.items():
        print(f"{'passed' if code == 0 else 'FAILED'}  {name}  {seconds:.0f} s")
    return 1 if any(code != 0 for code, _ in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
