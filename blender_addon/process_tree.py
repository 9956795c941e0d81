"""Child processes that leave nothing behind: no console window, and no grandchild that outlives its family."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

CREATION_FLAGS = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows would open a console for python.exe otherwise
NEW_SESSION = os.name == "posix"  # a process group of its own, so that `kill` reaches the grandchildren


def adopt(process: subprocess.Popen[bytes]) -> Any:
    """Ties the child's life to ours on Windows; returns a handle to keep until `release`, None elsewhere.

    Windows ends every process of a Job Object when the last handle to it closes, and our handle closes when we die.
    Elsewhere the backend itself watches its standard input and its parent.
    """
    if sys.platform != "win32":
        return None
    import ctypes
    from ctypes import wintypes

    class BasicLimits(ctypes.Structure):
        _fields_ = [
            ("PerProcessUserTimeLimit", ctypes.c_int64),
            ("PerJobUserTimeLimit", ctypes.c_int64),
            ("LimitFlags", wintypes.DWORD),
            ("MinimumWorkingSetSize", ctypes.c_size_t),
            ("MaximumWorkingSetSize", ctypes.c_size_t),
            ("ActiveProcessLimit", wintypes.DWORD),
            ("Affinity", ctypes.c_size_t),
            ("PriorityClass", wintypes.DWORD),
            ("SchedulingClass", wintypes.DWORD),
        ]

    class ExtendedLimits(ctypes.Structure):
        _fields_ = [
            ("BasicLimitInformation", BasicLimits),
            ("IoInfo", ctypes.c_uint64 * 6),
            ("ProcessMemoryLimit", ctypes.c_size_t),
            ("JobMemoryLimit", ctypes.c_size_t),
            ("PeakProcessMemoryUsed", ctypes.c_size_t),
            ("PeakJobMemoryUsed", ctypes.c_size_t),
        ]

    kill_on_close, extended_limit_information = 0x2000, 9
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel32.CreateJobObjectW.restype = wintypes.HANDLE
    kernel32.CreateJobObjectW.argtypes = [ctypes.c_void_p, wintypes.LPCWSTR]
    kernel32.SetInformationJobObject.argtypes = [wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.DWORD]
    kernel32.AssignProcessToJobObject.argtypes = [wintypes.HANDLE, wintypes.HANDLE]
    job = kernel32.CreateJobObjectW(None, None)
    if not job:
        return None
    limits = ExtendedLimits()
    limits.BasicLimitInformation.LimitFlags = kill_on_close
    kernel32.SetInformationJobObject(job, extended_limit_information, ctypes.byref(limits), ctypes.sizeof(limits))
    kernel32.AssignProcessToJobObject(job, int(process._handle))
    return job


def release(job: Any) -> None:
    """Gives back what `adopt` returned; whatever still runs in it ends."""
    if job is not None and sys.platform == "win32":
        import ctypes
        from ctypes import wintypes

        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.CloseHandle.argtypes = [wintypes.HANDLE]
        kernel32.CloseHandle(job)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Ends the child and, where it leads a process group, its descendants, at once. The dead are no error."""
    if process.poll() is not None:
        return
    try:
        if NEW_SESSION:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        process.kill()
