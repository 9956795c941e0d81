"""`train` and `evaluate` of the command line."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from backend.errors import BadInput
from backend.training import dmv3d, lgm, picture_reader
from backend.training.evaluate import add_evaluate_arguments, run_evaluate
from backend.training.loop import Budget, LoopOptions, LossFunction, Watch, load_state, train
from backend.views.dmv3d import Dmv3dGenerator
from backend.vocabulary import TOKENS, Vocabulary
from backend.weights import STARTER_PACK, load_checkpoint, load_into, save_checkpoint

__all__ = ["add_evaluate_arguments", "add_train_arguments", "run_evaluate", "run_train"]


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", choices=("dmv3d", "lgm", "reader"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an interrupted run goes on from it")
    parser.add_argument("--minutes", type=float, default=1e9, help="training time over all sittings")
    parser.add_argument("--steps", type=int, default=1_000_000_000)
    parser.add_argument("--batch", type=int, default=8, help="examples a step and process")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0, help="of the world that is trained on")
    parser.add_argument("--size", type=int, default=None, help="side of a view in pixels")
    parser.add_argument("--network", choices=tuple(dmv3d.NETWORKS), default="small", help="dmv3d: how large a network")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads a process")
    parser.add_argument("--processes", type=int, default=1, help="processes on this machine that share every step")
    parser.add_argument("--watch-minutes", type=float, default=8.0, help="time between sample sheets")
    parser.add_argument("--from-weights", type=Path, help="a .safetensors of the same model to begin with")
    parser.add_argument(
        "--imagined-by", type=Path, help="lgm: a dmv3d .safetensors whose objects take every other batch's place"
    )
    parser.add_argument(
        "--starter-pack", action="store_true", help="also write the averaged weights into the starter pack"
    )


@dataclass(frozen=True)
class Plan:
    """What the loop needs of a model: the network, its loss, what to watch, and the card that travels with it."""

    network: nn.Module
    loss: LossFunction
    watch: Watch
    card: dict[str, Any]


def _plan(arguments: argparse.Namespace) -> Plan:
    seed, device, batch = arguments.seed, arguments.device, arguments.batch
    torch.manual_seed(seed)
    card: dict[str, Any] = {"model": arguments.model, "command": _command(arguments), "seed": seed}
    if arguments.model == "dmv3d":
        earlier = _earlier_card(arguments)
        vocabulary = Vocabulary(earlier.get("tokens", TOKENS))
        sizes = dict(earlier.get("config", dmv3d.NETWORKS[arguments.network]))
        sizes.pop("vocabulary", None)
        if arguments.size is not None:
            sizes["image_size"] = arguments.size
        network = dmv3d.new_network(vocabulary, **sizes)
        size = network.config.image_size
        card |= {"config": network.config.to_dict(), "tokens": list(vocabulary.tokens)}
        loss = dmv3d.loss_function(vocabulary, seed, batch, size, device)
        return Plan(network, loss, dmv3d.watch(vocabulary, seed, size, device), card)
    if arguments.model == "reader":
        size = arguments.size or 64
        reader = picture_reader.new_network(size)
        card |= {"config": reader.config.to_dict(), "kinds": picture_reader.KINDS}
        watched = picture_reader.watch(seed, size, device)
        return Plan(reader, picture_reader.loss_function(seed, batch, size, device), watched, card)
    size = arguments.size or 128
    reconstructor = lgm.new_network()
    card |= {"config": reconstructor.config.to_dict(), "size": size}
    imagined_by = Dmv3dGenerator.load(arguments.imagined_by) if arguments.imagined_by else None
    loss_of = lgm.loss_function(seed, batch, size, device, imagined_by)
    return Plan(reconstructor, loss_of, lgm.watch(seed, size, device), card)


def _earlier_card(arguments: argparse.Namespace) -> dict[str, Any]:
    """Of the run or the weights that this training goes on from, which keep their sizes and vocabulary: no word may
    change its number. Empty where it begins anew."""
    if (state := load_state(arguments.out)) is not None:
        return state["card"]
    return load_checkpoint(arguments.from_weights)[1] if arguments.from_weights else {}


def _command(arguments: argparse.Namespace) -> str:
    """The command that repeats this training, written from what was asked."""
    words = ["python -m backend train", arguments.model]
    for name in ("minutes", "steps", "batch", "learning_rate", "seed", "size", "processes", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1e9:
            words.append(f"--{name.replace('_', '-')} {value:g}")
    if arguments.network != "small":
        words.append(f"--network {arguments.network}")
    for name in ("from_weights", "imagined_by"):
        if (path := getattr(arguments, name)) is not None:
            words.append(f"--{name.replace('_', '-')} {path.name}")
    return " ".join(words)


def _work(rank: int, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    if arguments.processes > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29531")
        dist.init_process_group("gloo", rank=rank, world_size=arguments.processes)
    plan = _plan(arguments)
    if arguments.from_weights is not None:
        state, earlier = load_checkpoint(arguments.from_weights)
        load_into(plan.network, state, arguments.from_weights.name)
        plan.card["began_with"] = {key: value for key, value in earlier.items() if key not in ("config", "tokens")}
    options = LoopOptions(
        folder=arguments.out,
        budget=Budget(arguments.steps, arguments.minutes),
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        device=arguments.device,
        watch_every_minutes=arguments.watch_minutes,
    )
    train(plan.network, plan.loss, options, plan.watch, plan.card)
    if rank == 0:
        export(arguments.out, arguments.out / f"{arguments.model}.safetensors")
        if arguments.starter_pack:
            STARTER_PACK.mkdir(exist_ok=True)
            export(arguments.out, STARTER_PACK / f"{arguments.model}.safetensors")
    if arguments.processes > 1:
        dist.destroy_process_group()


def export(folder: Path, path: Path) -> None:
    """Writes a run's averaged weights as fp16 with its card. Raises BadInput when the folder holds no run."""
    state = load_state(folder)
    if state is None:
        raise BadInput(f"There is no training run in {folder}.", "Give the folder that train --out wrote to.")
    card = {**state["card"], "steps": state["step"], "minutes": round(state["seconds"] / 60, 1)}
    card["licence"] = "GPL-3.0-or-later"
    save_checkpoint(path, state["ema"], card, torch.float16)


def run_train(arguments: argparse.Namespace) -> int:
    if arguments.minutes >= 1e9 and arguments.steps >= 1_000_000_000:
        raise BadInput("The training has no end.", "Give --minutes or --steps.")
    if arguments.processes > 1:
        os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(arguments.threads)
        torch.multiprocessing.spawn(_work, (arguments,), nprocs=arguments.processes)
    else:
        _work(0, arguments)
    return 0
