"""Functions that tell of their steps through a callback, as generators: what a library runs can be walked and ended."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Closed(BaseException):
    """Unwinds the function where nobody wants its result any more; no library's `except Exception` keeps it."""


def stepped(run: Callable[[Callable[[T], None]], R]) -> Generator[T, None, R]:
    """Yields what `run(tell)` passes to `tell`, and returns what it returns; raises what it raises.

    It runs in a thread of its own that stands still while the generator is not asked for more: the two never compute at
    the same time. Closing the generator ends it at its next call of `tell`, and waits for that.
    """
    messages: queue.Queue[tuple[str, Any]] = queue.Queue()
    go_on, closed = threading.Semaphore(0), threading.Event()

    def tell(item: T) -> None:
        if not closed.is_set():
            messages.put(("step", item))
            go_on.acquire()
        if closed.is_set():
            raise _Closed

    def work() -> None:
        try:
            messages.put(("result", run(tell)))
        except BaseException as error:
            messages.put(("error", error))

    thread = threading.Thread(target=work, name="stepped", daemon=True)
    thread.start()
    try:
        while True:
            kind, content = messages.get()
            if kind == "step":
                yield content
                go_on.release()
            elif kind == "result":
                return content
            else:
                raise content
    finally:
        closed.set()
        go_on.release()
        thread.join()
