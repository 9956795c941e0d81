"""Dying with the parent: a backend whose Blender is gone must not go on computing.

The end of stdin is the usual way. On Linux the kernel also sends a signal, and on every POSIX system the parent's
number is looked at now and then, for a stdin that somebody else holds open.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
_LOOK_EVERY = 1.0  # seconds


def die_with_parent(leave: Callable[[], None]) -> None:
    """Call `leave` once the process that started this one has ended. Call it from the main thread."""
    if os.name != "posix":
        return  # on Windows the add-on puts the child into a Job Object
    parent = os.getppid()

    def look(*_: object) -> None:
        # The kernel also sends the signal when only the *thread* that started this process ends: look who is there.
        if os.getppid() != parent:
            leave()

    if sys.platform == "linux":
        signal.signal(signal.SIGHUP, look)
        with contextlib.suppress(OSError, AttributeError):  # with another C library the thread below does it alone
            libc, chosen = ctypes.CDLL(None, use_errno=True), ctypes.c_int(0)
            libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(chosen), 0, 0, 0)
            if chosen.value == 0:  # else whoever started this process has chosen already
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGHUP, 0, 0, 0)

    def watch() -> None:
        while True:
            time.sleep(_LOOK_EVERY)
            look()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
