"""What this machine offers, and what is missing with what would mend it. Works where torch itself does not."""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
from importlib import metadata
from typing import Any

from backend.device import cpu_count, describe_devices, memory_bytes, pick_device
from backend.errors import SplatsmithError
from backend.packs import PACKS, data_folder

_OLDEST_TORCH = (2, 6)
_LEAST_MEMORY = 6 * 1024**3
_LEAST_DISK = 1024**3
_NEEDED = {
    "numpy": "numpy",
    "numba": "numba",
    "safetensors": "safetensors",
    "PIL": "pillow",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "fast_simplification": "fast-simplification",
    "xatlas": "xatlas",
}


def examine() -> dict[str, Any]:
    """Versions, devices, memory and problems, each with a fix; as the wire's `doctor` answers. Never raises."""
    problems: list[dict[str, str]] = []
    _check_python(problems)
    devices, device = _check_torch(problems)
    for module, package in _NEEDED.items():
        _check_import(module, package, problems)
    memory = memory_bytes()
    if memory is not None and memory < _LEAST_MEMORY:
        problems.append(_problem(f"This machine has {memory / 1024**3:.1f} GB of memory.", "6 GB or more are wanted."))
    for pack in PACKS.values():
        if not pack.present:
            problems.append(
                _problem(f"The weights '{pack.name}' are missing ({pack.path}).", "Install Splatsmith again.")
            )
    folder = data_folder()
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if free < _LEAST_DISK:
        problems.append(_problem(f"The disk with {folder} has only {free / 1024**2:.0f} MB free.", "Free some space."))
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "torch": _version("torch"),
        "numba": _version("numba"),
        "numpy": _version("numpy"),
        "device": device,
        "devices": devices,
        "cpu_count": cpu_count(),
        "memory_bytes": memory,
        "packs": {name: pack.present for name, pack in PACKS.items()},
        "problems": problems,
    }


def _problem(message: str, fix: str) -> dict[str, str]:
    return {"message": message, "fix": fix}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _check_python(problems: list[dict[str, str]]) -> None:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        found = platform.python_version()
        problems.append(_problem(f"Python {found} is not supported.", "Use Python 3.11, 3.12 or 3.13."))
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        problems.append(_problem("PyTorch is no longer made for Intel Macs.", "Use another machine."))


def _check_import(module: str, package: str, problems: list[dict[str, str]]) -> bool:
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken library may raise anything while it is imported
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not load ({error})"
        problems.append(_problem(f"{package} {reason}.", "Set up the backend's environment again."))
        return False
    return True


def _check_torch(problems: list[dict[str, str]]) -> tuple[list[dict[str, Any]], str | None]:
    if not _check_import("torch", "torch", problems):
        return [], None
    import torch

    try:
        version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    except ValueError:
        version = _OLDEST_TORCH  # a development build with an odd name
    if version < _OLDEST_TORCH:
        problems.append(_problem(f"torch {torch.__version__} is too old.", "Set up the backend's environment again."))
    try:
        devices = describe_devices()
        unusable = [entry["title"] for entry in devices if not entry["usable"]]
        if unusable:
            problems.append(
                _problem(f"This torch cannot compute on {', '.join(unusable)}.", "Install a build that knows it.")
            )
        return devices, pick_device()
    except (SplatsmithError, RuntimeError) as error:
        problems.append(_problem(f"The devices cannot be asked: {error}", "Update the graphics driver."))
        return [], "cpu"


def to_text(facts: dict[str, Any]) -> str:
    """What `examine` found, for people."""
    memory = f"{facts['memory_bytes'] / 1024**3:.1f} GB" if facts["memory_bytes"] else "unknown"
    packs = ", ".join(f"{name} {'there' if there else 'missing'}" for name, there in facts["packs"].items())
    lines = [
        f"Python   {facts['python']}  ({facts['executable']})",
        f"System   {facts['system']}",
        *(f"{name:8} {facts[name] or 'missing'}" for name in ("torch", "numba", "numpy")),
        f"Device   {facts['device'] or 'none'}",
        *(
            f"         {entry['name']}: {entry['title']}{'' if entry['usable'] else ' (unusable)'}"
            for entry in facts["devices"]
        ),
        f"Memory   {memory}",
        f"Weights  {packs}",
    ]
    for problem in facts["problems"]:
        lines += ["", f"Problem: {problem['message']}", f"    Fix: {problem['fix']}"]
    return "\n".join(lines if facts["problems"] else [*lines, "", "Nothing is missing."])
