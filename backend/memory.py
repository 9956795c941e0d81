"""How much memory is free, what the published models need of it, and what is done where it is short.

Every decision is a small function of figures, so that it can be tried without the machine that it is for.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from backend.device import available_bytes
from backend.errors import OutOfMemory

if TYPE_CHECKING:  # what the table is read for needs no torch
    from backend.datatypes import Step

T = TypeVar("T")
GIB = 2**30
# Where the parts of a model lie while it works on a graphics card: all there; one at a time there, the others in the
# machine's memory; and, of the largest, one layer at a time.
WHOLE, TURNS, LAYERS = "whole", "turns", "layers"
RESERVE = GIB // 2  # bytes of a graphics card that stay free for the screen and for other programs


@dataclass(frozen=True)
class Need:
    """What a published model needs. parameters: how many numbers its parts hold; working: bytes that it fills beside
    them while it computes in float32, and decoding: while its autoencoder does; narrow: in float32 too its weights lie
    in memory in half precision; wide: its autoencoder computes in float32 whatever the rest does."""

    parameters: int
    working: int
    decoding: int = 0
    narrow: bool = False
    wide: bool = False

    def weights(self, itemsize: int) -> int:
        """Bytes of the parts, where numbers take so many bytes."""
        return self.parameters * (2 if self.narrow else itemsize)

    def beside(self, itemsize: int) -> dict[str, int]:
        """Bytes beside the weights while each of a generator's parts computes, likewise; the others' are few."""
        return {"unet": self.working * itemsize // 4, "vae": self.decoding * (4 if self.wide else itemsize) // 4}

    def bytes(self, itemsize: int) -> int:
        """At work, all parts together."""
        return self.weights(itemsize) + max(self.beside(itemsize).values())


# By pack. Parameters are counted, and so is working memory: the most bytes of tensors at once on the meta device, with
# a third more for what kernels need beside them.
NEEDS: dict[str, Need] = {
    "mvdream": Need(1_291_613_867, GIB * 4 // 10, GIB * 3 // 10),
    "imagedream": Need(1_996_480_683, GIB * 5 // 10, GIB * 3 // 10),
    "zero123plus-v1.1": Need(1_581_641_387, GIB, GIB * 24 // 10),
    "zero123plus-v1.2": Need(1_581_641_387, GIB, GIB * 24 // 10),
    "sv3d-p": Need(2_241_009_085, GIB * 46 // 10, GIB * 13 // 10, wide=True),
    "sv3d-u": Need(2_239_698_365, GIB * 46 // 10, GIB * 13 // 10, wide=True),
    "sdxl": Need(3_468_837_867, GIB * 9 // 10, GIB * 4, narrow=True, wide=True),
    "lgm-big": Need(415_042_848, GIB, narrow=True),
    "grm-r": Need(178_850_304, GIB),
    "grm-zero123plus": Need(178_850_304, GIB),
    "grm-u": Need(178_850_304, GIB),
    "geolrm": Need(334_556_304, GIB),
}


def placement(parts: Mapping[str, int], beside: Mapping[str, int], free: int | None) -> str:
    """WHOLE, TURNS or LAYERS: the quickest way that fits. parts: the bytes of each; beside: bytes beside the weights
    while it computes; free: bytes on the graphics card, None where there is none of its own to be short of."""
    room = None if free is None else free - RESERVE
    if room is None or sum(parts.values()) + max(beside.values(), default=0) <= room:
        return WHOLE
    return TURNS if max(size + beside.get(name, 0) for name, size in parts.items()) <= room else LAYERS


def thriftier(way: str) -> str | None:
    """The next way that needs less, None where there is none."""
    return {WHOLE: TURNS, TURNS: LAYERS}.get(way)


def is_short(need: Need | None, itemsize: int, free: int | None) -> bool:
    """Whether others have to go before a model comes. What is unknown is not short."""
    return need is not None and free is not None and free < need.bytes(itemsize) + RESERVE


def check_weights_fit(title: str, need: Need | None, itemsize: int, free: int | None) -> None:
    """Raises OutOfMemory where not even the weights fit into a machine's memory: the system would end the process
    without a word."""
    if need is None or free is None or need.weights(itemsize) <= free:
        return
    raise OutOfMemory(
        f"{title} needs about {need.bytes(itemsize) / GIB:.0f} GB of memory, and {free / GIB:.1f} GB are free.",
        "Close other programs, or use the recipe 'starter', which needs far less.",
    )


def shares_memory(device: str) -> bool:
    """Whether a device computes in the machine's own memory."""
    return device in ("cpu", "mps")


def free_memory(device: str) -> int | None:
    """Bytes that a model on this device could take now: of the graphics card, or of the machine; None where that
    cannot be told, and for Apple's GPUs, which share the machine's memory."""
    if device.startswith("cuda"):
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, unused
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return available_bytes() if device == "cpu" else None


def give_back() -> None:
    """What nothing uses any more goes back to the graphics card and its other users, such as Cycles."""
    gc.collect()
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory: torch says so in several ways."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    phrases = (
        "out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed",
    )  # fmt: skip
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in phrases)


def out_of_memory(device: str, stage: str) -> OutOfMemory:
    """The error for a job that had not enough even when nothing was left to spare. stage: the one that ran."""
    if stage not in ("picture", "views", "reconstruct"):
        fix = "Close other programs, or ask for fewer faces or a smaller texture."
        return OutOfMemory("The memory was too small for this job.", fix)
    where = "machine's memory" if device == "cpu" else "graphics card's memory"
    return OutOfMemory(
        f"The {where} was too small for this recipe's models.",
        "Close other programs that use it, or use the recipe 'starter', which needs far less.",
    )


def retried(make: Callable[[], Generator[Step, None, T]], spare: Callable[[], bool]) -> Generator[Step, None, T]:
    """Walks make() to its end. Where memory runs out, and `spare` finds something to give up, it all begins again.

    spare: called between the tries, when nothing of the failed one is left; False where there is nothing to give up.
    """
    while True:
        try:
            return (yield from make())
        except BaseException as error:
            if not is_out_of_memory(error):
                raise
            failure = str(error)[:300]
        # Only here are the failed walk's frames, and what they held, gone.
        give_back()
        if not spare():
            raise MemoryError(failure)
        give_back()
        from backend.datatypes import Step  # here, as the figures above are wanted without torch

        yield Step(0, 1, "The memory was too small: trying again in a way that needs less")
