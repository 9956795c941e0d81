"""The training loop: time or step budget, bf16 where the processor has it, EMA, resumable, samples while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from backend.errors import BadInput

# (network, number of the first example) -> loss, figures
LossFunction = Callable[[nn.Module, int], tuple[Tensor, dict[str, float]]]
# (averaged network, folder for pictures, step) -> figures
Watch = Callable[[nn.Module, Path, int], dict[str, float]]


@dataclass(frozen=True)
class Budget:
    """How long to train: `steps`, or `minutes` of training time over all sittings, whichever ends first."""

    steps: int = 1_000_000_000
    minutes: float = 1e9

    def progress(self, step: int, seconds: float) -> float:
        return max(step / self.steps, seconds / 60 / self.minutes)


@dataclass(frozen=True)
class LoopOptions:
    folder: Path
    budget: Budget
    batch: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 100
    decay_share: float = 0.4  # of the budget, at its end, over which the learning rate falls linearly to a fiftieth
    ema: float = 0.999
    clip: float = 1.0
    device: str = "cpu"
    save_every_minutes: float = 3.0
    watch_every_minutes: float = 8.0


def has_fast_bfloat16(device: str) -> bool:
    """Whether bf16 is quicker than fp32 here: CPUs without AMX or AVX-512 BF16 emulate it hundreds of times slower."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    if device == "cpu":
        capabilities = (
            getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        )
        return any(probe is not None and probe() for probe in capabilities)
    return False


def autocast(device: str) -> Any:
    """bf16 autocast where it pays, else nothing."""
    if has_fast_bfloat16(device):
        return torch.autocast(device.split(":")[0], dtype=torch.bfloat16)
    return nullcontext()


class Ema:
    """An exponential moving average of a network's weights; its decay ramps up so that early steps are forgotten."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {key: value.detach().clone() for key, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged = [self.values[key] for key, value in network.state_dict().items() if value.is_floating_point()]
        current = [value.detach() for value in network.state_dict().values() if value.is_floating_point()]
        torch._foreach_lerp_(averaged, current, 1.0 - decay)

    def swapped_into(self, network: nn.Module) -> dict[str, Tensor]:
        """Loads the average into `network` and returns what was there."""
        before = {key: value.detach().clone() for key, value in network.state_dict().items()}
        network.load_state_dict(self.values)
        return before


def learning_rate_factor(step: int, progress: float, options: LoopOptions) -> float:
    """Linear warm-up by steps, constant, then linear decay by share of the budget."""
    warm = min(1.0, (step + 1) / options.warm_up)
    left = (1.0 - progress) / options.decay_share
    return warm * min(1.0, max(left, 0.02))


def _average_gradients(network: nn.Module, workers: int) -> None:
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= workers
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _save(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)


def load_state(folder: Path, device: str = "cpu") -> dict[str, Any] | None:
    """The last state that a run left in `folder`, or None. Raises BadInput when the file is damaged."""
    path = folder / "state.pt"
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise BadInput(f"{path} cannot be read.", "Delete it to start the training again.") from error


def train(
    network: nn.Module, loss_function: LossFunction, options: LoopOptions, watch: Watch, card: dict[str, Any]
) -> Ema:
    """Trains until the budget is spent, from wherever `options.folder` left off, and returns the averaged weights.

    `card` is stored with the state. With torch.distributed running, each process takes its share of every batch's
    examples and gradients are averaged; only the first process writes.
    """
    workers, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    options.folder.mkdir(parents=True, exist_ok=True)
    network.to(options.device).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.98)
    )
    ema, step, seconds = Ema(network, options.ema), 0, 0.0
    if (state := load_state(options.folder, options.device)) is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        ema.values, step, seconds = state["ema"], state["step"], state["seconds"]

    def save() -> None:
        content = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema.values,
                   "step": step, "seconds": seconds, "card": card}  # fmt: skip
        _save(options.folder / "state.pt", content)

    def look() -> None:
        before = ema.swapped_into(network)
        network.eval()
        figures = watch(network, options.folder, step)
        network.load_state_dict(before)
        network.train()
        with (options.folder / "log.txt").open("a") as log:
            log.write(
                f"step {step} minutes {seconds / 60:.1f} " + " ".join(f"{k} {v:.4f}" for k, v in figures.items()) + "\n"
            )

    since_save, since_look, start = 0.0, 0.0, time.monotonic()
    bar = tqdm(unit="step", initial=step, disable=rank != 0, mininterval=5)
    running: dict[str, float] = {}
    while (progress := options.budget.progress(step, seconds)) < 1.0:
        factor = learning_rate_factor(step, progress, options)
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * factor
        with autocast(options.device):
            loss, figures = loss_function(network, (step * workers + rank) * options.batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if workers > 1:
            _average_gradients(network, workers)
        norm = nn.utils.clip_grad_norm_(network.parameters(), options.clip)
        if torch.isfinite(norm):  # one bad batch must not spoil a night's training
            optimizer.step()
            ema.update(network, step)
        step += 1
        now = time.monotonic()
        elapsed, start = now - start, now
        if workers > 1:  # all must agree on when to stop
            shared = torch.tensor([elapsed])
            dist.all_reduce(shared, dist.ReduceOp.MAX)
            elapsed = float(shared)
        seconds, since_save, since_look = seconds + elapsed, since_save + elapsed, since_look + elapsed
        for key, value in figures.items():
            running[key] = running.get(key, value) * 0.98 + value * 0.02
        bar.update(1)
        bar.set_postfix(
            {**{key: f"{value:.4f}" for key, value in running.items()}, "done": f"{progress:.0%}"}, refresh=False
        )
        if rank == 0 and since_look > options.watch_every_minutes * 60:
            since_look = 0.0
            look()
        if rank == 0 and since_save > options.save_every_minutes * 60:
            since_save = 0.0
            save()
    bar.close()
    if rank == 0:
        look()
        save()
    return ema
