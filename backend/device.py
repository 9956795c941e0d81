"""Which device the networks run on: CUDA (ROCm answers to the same name), Apple's MPS, or the CPU."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from backend.errors import UnsupportedDevice

if TYPE_CHECKING:
    import torch

CHOICES = ("auto", "cpu", "cuda", "mps")


def pick_device(asked: str = "auto") -> str:
    """The device to use: what was `asked` for, or the best there is. Raises UnsupportedDevice if it is not there."""
    import torch

    if asked not in CHOICES:
        raise UnsupportedDevice(f"There is no device called '{asked[:40]}'.", f"Use one of {', '.join(CHOICES)}.")
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if have[name] and _works(name))
    if not have[asked]:
        raise UnsupportedDevice(f"torch finds no {asked.upper()} device on this machine.", "Use --device cpu or auto.")
    if not _works(asked):
        raise UnsupportedDevice(
            f"This build of torch ({torch.__version__}) cannot compute on this machine's {asked.upper()} device.",
            "Install a torch build that knows it, or use the CPU.",
        )
    return asked


def has_fast_bfloat16(device: str) -> bool:
    """Whether bf16 is quicker than fp32 here: CPUs without AMX or AVX-512 BF16 emulate it hundreds of times slower."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        probes = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
        return any(probe is not None and probe() for probe in probes)
    return False


def inference_dtype(device: str, half: torch.dtype | None = None) -> torch.dtype:
    """What a network's weights and values had best be on a device: bf16 or fp16 where that is quick, else fp32.

    half: what a GPU is to use instead of bf16, for networks whose values are known to stay within fp16's range, which
    is eight times as fine.
    """
    import torch

    if device.startswith("cuda") and half is not None:
        # Of this one series convolutions in fp16 come out as not-a-number.
        title = torch.cuda.get_device_name(device) if torch.cuda.is_available() else ""
        return torch.float32 if "GTX 16" in title else half
    if device == "mps":
        return half or torch.float16
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32


def _works(name: str) -> bool:
    """A device may be listed and yet be too new or too old for this build of torch: compute something on it."""
    if name == "cpu":
        return True
    import torch

    try:
        return float((torch.ones(4, device=name) * 2).sum()) == 8.0
    except (RuntimeError, AssertionError):
        return False


def describe_devices() -> list[dict[str, Any]]:
    """One entry a device: name, title, memory in bytes (None where unknown), usable."""
    import torch

    devices: list[dict[str, Any]] = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            usable = _works("cuda")
            devices.append(
                {"name": "cuda", "title": properties.name, "memory": properties.total_memory, "usable": usable}
            )
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "title": "Apple GPU", "memory": None, "usable": _works("mps")})
    devices.append({"name": "cpu", "title": f"{cpu_count()} cores", "memory": memory_bytes(), "usable": True})
    return devices


def cpu_count() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """The machine's memory, or the container's share of it where there is one; None where it cannot be told."""
    total = (_windows_memory() or (None,))[0] if sys.platform == "win32" else _posix_memory()
    try:
        limit = int(_cgroup("memory.max"))
        return min(limit, total) if total else limit
    except (OSError, ValueError):
        return total


def available_bytes() -> int | None:
    """How much of the machine's or the container's memory, and of its swap, programs could still take; None where it
    cannot be told (on macOS, which swaps and compresses as it likes)."""
    if sys.platform == "win32":
        return (_windows_memory() or (None, None))[1]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        free = sum(int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree") if name in lines)
    except (OSError, ValueError):
        return None
    try:
        limit, used = (int(_cgroup(name)) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in _cgroup("memory.stat").splitlines())
        return min(free, max(0, limit - used + int(statistics.get("inactive_file", 0))))  # files' pages are given up
    except (OSError, ValueError):
        return free


def _cgroup(name: str) -> str:
    with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as file:
        return file.read()


def _posix_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _windows_memory() -> tuple[int, int] | None:
    """All of it, and what programs could still take, the page file included."""
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "page", "page_free", "virtual", "virtual_free")),
            ("extended", ctypes.c_ulonglong),
        ]

    status = Status()
    status.length = ctypes.sizeof(Status)
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
        return None
    return int(status.total), int(status.page_free)
