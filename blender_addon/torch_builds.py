"""Which build of torch a machine gets, and where it comes from: the only place that names PyTorch's wheel indexes.

Standard library only and nothing of this package, because `build_addon.py` loads it outside Blender too.
"""

from __future__ import annotations

import platform
import re
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Build:
    """One kind of torch wheel. index: PyTorch's own wheel index, empty where the ordinary one has the right build."""

    label: str
    index: str
    local_version: str = ""  # what stands after the + in the wheel's version
    megabytes: int = 0  # of downloads, roughly, to be shown before a click


BUILDS = {
    "cpu": Build("CPU", "https://download.pytorch.org/whl/cpu", "cpu", 250),
    "cu126": Build(
        "NVIDIA GPU, CUDA 12.6 (driver 560 or newer)", "https://download.pytorch.org/whl/cu126", "cu126", 3000
    ),
    "cu130": Build(
        "NVIDIA GPU, CUDA 13.0 (driver 580 or newer)", "https://download.pytorch.org/whl/cu130", "cu130", 3000
    ),
    "rocm": Build("AMD GPU, ROCm (Linux)", "https://download.pytorch.org/whl/rocm7.1", "rocm7.1", 4500),
    "mps": Build("Apple silicon", "", "", 100),
}


def intel_mac(system: str = sys.platform, machine: str = "") -> bool:
    """Whether this is an Intel Mac, for which there is no current torch, numba or Blender."""
    return system == "darwin" and (machine or platform.machine()) == "x86_64"


def detect(system: str = sys.platform) -> str:
    """The key of the build that suits this machine's device: looks at the drivers, never at the network."""
    if system == "darwin":
        return "mps"
    cuda = _cuda_version()
    if cuda is not None:
        return "cu130" if cuda >= (13, 0) else "cu126" if cuda >= (12, 0) else "cpu"
    if system == "linux" and _says(["rocminfo"], r"gfx\d+"):
        return "rocm"
    return "cpu"


def _cuda_version() -> tuple[int, int] | None:
    """The newest CUDA that the NVIDIA driver supports, None without a driver or a GPU."""
    found = _says(["nvidia-smi"], r"CUDA Version:\s*(\d+)\.(\d+)")
    return (int(found.group(1)), int(found.group(2))) if found else None


def _says(command: Sequence[str], pattern: str) -> re.Match[str] | None:
    if shutil.which(command[0]) is None:
        return None
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=15, creationflags=flags
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return re.search(pattern, done.stdout)


def reachable(index: str, seconds: float = 6.0) -> bool:
    """Whether anything answers at a wheel index. A certificate unknown to Python is an answer: pip knows more."""
    try:
        urllib.request.urlopen(urllib.request.Request(index + "/torch/", method="HEAD"), timeout=seconds).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLCertVerificationError)
    except (OSError, ValueError):
        return False
    return True


def pip_attempts(torch_pin: str, build: str, index_answers: bool, system: str = sys.platform) -> list[list[str]]:
    """The arguments of `pip install` to try one after another until one succeeds.

    torch_pin: "torch==X.Y.Z". The wheels of PyTorch's own indexes have a local version (X.Y.Z+cpu), and asking for it
    by name is what keeps pip from taking the plain wheel of the same version, which on Linux brings gigabytes of CUDA.
    Without that index, pip's configuration may still know a +cpu wheel (mirrors and wheel folders do); only when it
    does not is the plain wheel taken. On Windows and macOS the plain wheel is a CPU build anyway.
    """
    chosen = BUILDS[build]
    if not chosen.index:
        return [[torch_pin]]
    exact = f"{torch_pin}+{chosen.local_version}"
    attempts = [[exact, "--extra-index-url", chosen.index] if index_answers else [exact]]
    # Linux's plain wheel is a CUDA build, everybody else's is for the CPU.
    if build == "cpu" or (build.startswith("cu") and system == "linux"):
        attempts.append([torch_pin])
    return attempts
