"""How the numba kernels are compiled and spread over threads.

The kernels are serial and release the interpreter's lock; a thread pool runs them side by side. Compared with numba's
own `prange` that compiles several times faster, follows `torch.set_num_threads`, and stands being called from many
threads. Where numba cannot be imported, kernels are what they were written as, plain Python: callers ask
`numba_present` first and have a torch version.
"""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

try:
    import numba
except Exception:  # not installed; or, in one of its own ways, at odds with a numpy that it does not know
    numba = None  # type: ignore[assignment]

# Fused and reordered arithmetic, but not a world without NaN and infinity: kernels test for both.
_FASTMATH = {"contract", "afn", "arcp", "nsz", "reassoc"}

_pool: tuple[int, int, ThreadPoolExecutor] | None = None  # (process, threads, pool)
_pool_lock = threading.Lock()
_worker = threading.local()


def numba_present() -> bool:
    """Whether kernels are compiled. (A function, so that tests can deny it.)"""
    return numba is not None


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` on its first call, with a cache on disk where one can be written."""
    if numba is None:
        return function
    options: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy"}
    try:
        compiled = numba.njit(cache=True, **options)(function)
        _notice_helpers(compiled, function)
    except RuntimeError:  # neither this folder, nor the user's cache folder, nor NUMBA_CACHE_DIR can be written
        compiled = numba.njit(**options)(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return compiled(*arguments)
        except OSError:  # the cache filled the disk while saving: the compiled code itself is in place by then
            return compiled(*arguments)
        except (EOFError, pickle.UnpicklingError):  # a damaged cache: empty it, and compile again
            compiled._cache.flush()
            return compiled(*arguments)

    return call


def _notice_helpers(compiled: Any, function: Callable[..., Any]) -> None:
    """Let the cache on disk see changes in helpers' files, *_numba*.py beside the kernel's, not just in its own."""
    files = sorted(Path(function.__code__.co_filename).parent.glob("*_numba*.py"))
    stamps = [(file.name, file.stat().st_mtime, file.stat().st_size) for file in files]
    cache: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(cache, "_source_stamp"):
        cache._source_stamp = (cache._source_stamp, tuple(stamps))


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A helper that kernels call, of the same file or of one beside it with `_numba` in its name."""
    if numba is None:
        return function
    return numba.njit(nogil=True, fastmath=_FASTMATH, error_model="numpy")(function)


def thread_count() -> int:
    """Threads that kernels may take: torch's count, and one where a pool's thread already asks."""
    return 1 if getattr(_worker, "busy", False) else max(1, torch.get_num_threads())


def run(function: Callable[..., Any], items: Iterable[tuple]) -> list:
    """[function(*item) for item in items], side by side where torch's thread count allows it.

    The caller works too, so that nothing waits for a thread to wake. The first error is raised; no item is begun then.
    """
    work = list(items)
    threads = min(thread_count(), len(work))
    if threads <= 1:
        return [function(*item) for item in work]
    results: list[Any] = [None] * len(work)
    todo, lock = iter(range(len(work))), threading.Lock()

    def take() -> int | None:
        with lock:
            return next(todo, None)

    def take_part() -> None:
        _worker.busy = True
        try:
            while (index := take()) is not None:
                results[index] = function(*work[index])
        except BaseException:
            while take() is not None:
                pass
            raise
        finally:
            _worker.busy = False

    pool = _get_pool(thread_count())
    helpers = [pool.submit(take_part) for _ in range(threads - 1)]
    try:
        take_part()
    finally:
        errors = [helper.exception() for helper in helpers if not helper.cancel()]
    for error in errors:
        if error is not None:
            raise error
    return results


def run_on_each_thread(function: Callable[[], Any], most: int) -> None:
    """Call function() on every thread, `most` at most, side by side. The calls share out their work themselves."""
    run(function, [()] * min(thread_count(), most))


def chunks(count: int, smallest: int, pieces_per_thread: int = 4) -> list[tuple[int, int]]:
    """Split range(count) into [(first, last), ...] of at least `smallest` items, a few for every thread."""
    threads = thread_count()
    pieces = 1 if threads == 1 else max(1, min(count // max(smallest, 1), threads * pieces_per_thread))
    edges = [count * piece // pieces for piece in range(pieces + 1)]
    return list(itertools.pairwise(edges))


def _get_pool(threads: int) -> ThreadPoolExecutor:
    """The process's pool; a new one after a fork (threads do not survive it) or when torch's count changed."""
    global _pool
    with _pool_lock:
        if _pool is None or _pool[:2] != (os.getpid(), threads):
            _pool = (os.getpid(), threads, ThreadPoolExecutor(threads, thread_name_prefix="splatsmith-render"))
        return _pool[2]
