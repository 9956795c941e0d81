"""The rasteriser on the CPU: numba kernels behind a torch.autograd.Function.

Everything here is float32 on the CPU, contiguous; `backend.render.rasterize` brings other tensors here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.render.gaussian_numba_bins import TILE, fill_tiles, gather_pairs, sort_slice, tile_spans
from backend.render.gaussian_numba_project import RECORD, project_chunks, whole_radii
from backend.render.gaussian_numba_tiles import blend_tiles, blend_tiles_backward
from backend.render.gaussian_numba_unproject import GRADIENT, project_backward
from backend.render.parallel import chunks, run, run_on_each_thread, thread_count

_PAIRS_AT_ONCE = 1 << 22  # (tile, Gaussian) pairs of a band of tile rows, and floats of their gradients / 16
_GRADIENT_BYTES = 1 << 28  # of records' gradients, for a group of views
_CHUNK = 4096  # Gaussians that a thread projects before it takes more
_SLICES = 2  # of depth, for each thread
_SAMPLE = 1024  # Gaussians by which slices are made equal
_NO_PLANES = np.zeros((0, 5), np.float32)


@dataclass(frozen=True)
class Settings:
    """What a rasterisation needs beside tensors. with_depth: the Gaussian's depth becomes the last channel."""

    width: int
    height: int
    near_plane: float = 0.01
    far_plane: float = 1e10
    eps2d: float = 0.3
    radius_clip: float = 0.0
    with_depth: bool = False


@dataclass(frozen=True)
class Band:
    """Tile rows [first_row, last_row) of a view: ids[starts[t] : starts[t + 1]] is the list of the band's tile t.

    gaussians: for each slice of depth order, ends and places of `gather_pairs`, where the backward pass wants them.
    """

    first_row: int
    last_row: int
    starts: np.ndarray
    ids: np.ndarray
    gaussians: list[tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Drawn:
    """What a view draws of its Gaussians, of chunk after chunk of _CHUNK and in each by slices of depth.

    boxes int16 [N, 4] of tiles; listed uint64 [N] and found int32 [chunks, slices]: see `list_drawn`.
    """

    boxes: np.ndarray
    listed: np.ndarray
    found: np.ndarray
    chunk: int


def project_view(
    gaussians: Sequence[np.ndarray],
    view: np.ndarray,
    intrinsics: np.ndarray,
    settings: Settings,
    records: np.ndarray,
) -> Drawn:
    """Fill records [N, RECORD] of one view. gaussians: means, quats, scales, opacities and log(255 opacities)."""
    means, s, chunk = gaussians[0], settings, _CHUNK
    count = means.shape[0]
    numbers = [np.float32(number) for number in (s.near_plane, s.far_plane, s.eps2d, s.radius_clip)]
    bounds = _slice_bounds(means, view, settings)
    boxes, listed = np.empty((count, 4), np.int16), np.empty(count, np.uint64)
    found = np.empty((-(-count // chunk), bounds.size + 1), np.int32)
    queue = np.zeros(1, np.int64)

    def work() -> None:
        project_chunks(
            queue, chunk, bounds, *gaussians, view, intrinsics, s.width, s.height, *numbers, records, boxes, listed,
            found,
        )  # fmt: skip

    run_on_each_thread(work, found.shape[0])
    return Drawn(boxes, listed, found, chunk)


def _slice_bounds(means: np.ndarray, view: np.ndarray, settings: Settings) -> np.ndarray:
    """The bits of the depths that part the Gaussians into a few equal slices for every thread, judged by a sample."""
    threads = thread_count()
    if threads > 1 and means.shape[0] > 2 * _CHUNK:
        sample = means[:: means.shape[0] // _SAMPLE + 1]
        with np.errstate(all="ignore"):
            depths = sample @ view[2, :3] + view[2, 3]
        depths = np.sort(depths[(depths > settings.near_plane) & (depths < settings.far_plane)])
        if depths.size:
            slices = threads * _SLICES
            return depths[depths.size * np.arange(1, slices) // slices].astype(np.float32).view(np.uint32)
    return np.empty(0, np.uint32)


def bands(
    records: np.ndarray, drawn: Drawn, settings: Settings, backward: bool, pairs_at_once: int = _PAIRS_AT_ONCE
) -> Iterator[Band]:
    """Yield the view's bands of tile rows, each of so many rows that its lists stay below `pairs_at_once`.

    backward: whether a backward pass will want each Gaussian's places in the lists.
    """

    def sort(which: int) -> tuple[np.ndarray, ...]:
        order = sort_slice(drawn.listed, drawn.found, drawn.chunk, which)
        return (order, *tile_spans(records, drawn.boxes, order, settings.width, settings.height))

    slices = run(sort, [(which,) for which in range(drawn.found.shape[1])])
    counts = np.stack([counts for *_, counts in slices])  # [slices, tile rows, tile columns]
    row_pairs = counts.sum(axis=(0, 2))
    first = 0
    while first < row_pairs.size:
        last = first + 1
        while last < row_pairs.size and row_pairs[first : last + 1].sum() <= pairs_at_once:
            last += 1
        # A tile's list is its parts from the slices, the nearest slice first.
        here = np.moveaxis(counts[:, first:last], 0, -1)
        ends = np.cumsum(here).reshape(here.shape)
        starts = np.concatenate([[0], ends[..., -1].reshape(-1)])
        cursors = ends - here
        ids = np.empty(starts[-1], np.int32)

        def fill(
            which: int, first: int = first, last: int = last, here: np.ndarray = here, cursors: np.ndarray = cursors,
            ids: np.ndarray = ids,
        ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
            order, placed, spans, _ = slices[which]
            ends = np.empty(order.size if backward else 0, np.int64)
            places = np.empty(here[..., which].sum() if backward else 0, np.int32)
            cursor = np.ascontiguousarray(cursors[..., which])
            fill_tiles(order, placed, spans, first, last, cursor, ids, ends, places)
            return order, ends, places

        yield Band(first, last, starts, ids, run(fill, [(which,) for which in range(len(slices))]))
        first = last


def blend_view(
    records: np.ndarray,
    drawn: Drawn,
    colors: np.ndarray,
    planes: np.ndarray,
    depth_mode: int,
    settings: Settings,
    out_colors: np.ndarray,
    out_rest: np.ndarray,
    backward: bool = False,
) -> Band | None:
    """Render one view into out_colors [H, W, ...] and out_rest [H, W]; see `blend_tiles`.

    For a backward pass, gives back the tile lists where one band holds them all, so that it need not make them again.
    """
    made = []
    for band in bands(records, drawn, settings, backward):
        made = [band] if backward and band.first_row == 0 else []
        queue = np.zeros(1, np.int64)

        def work(band: Band = band, queue: np.ndarray = queue) -> None:
            blend_tiles(
                queue, records, colors, planes, depth_mode, band.ids, band.starts, band.first_row, settings.width,
                settings.height, out_colors, out_rest,
            )  # fmt: skip

        run_on_each_thread(work, band.starts.size - 1)
    return made[0] if made else None


def _blend_view_backward(
    ready: Band | None,
    records: np.ndarray,
    drawn: Drawn,
    colors: np.ndarray,
    settings: Settings,
    rendered: np.ndarray,
    rest: np.ndarray,
    v_rendered: np.ndarray,
    v_alphas: np.ndarray,
    out: np.ndarray,
) -> None:
    width = GRADIENT + rendered.shape[2]
    limit = _PAIRS_AT_ONCE * 16 // width
    todo = bands(records, drawn, settings, True, limit) if ready is None or ready.ids.size > limit else [ready]
    for band in todo:
        pairs, queue = np.empty((band.ids.size, width), np.float32), np.zeros(1, np.int64)

        def work(band: Band = band, pairs: np.ndarray = pairs, queue: np.ndarray = queue) -> None:
            blend_tiles_backward(
                queue, records, colors, settings.with_depth, band.ids, band.starts, band.first_row, settings.width,
                settings.height, rendered, rest, v_rendered, v_alphas, pairs,
            )  # fmt: skip

        run_on_each_thread(work, band.starts.size - 1)

        def gather(order: np.ndarray, ends: np.ndarray, places: np.ndarray, pairs: np.ndarray = pairs) -> None:
            gather_pairs(order, ends, places, pairs, out)

        run(gather, band.gaussians)


def each_view(function: Callable[[int], None], views: int) -> None:
    """Call function(view) for every view: side by side while there is one for each thread, then with all threads."""
    together = views // thread_count() * thread_count()
    run(function, [(view,) for view in range(together)])
    for view in range(together, views):
        function(view)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, views, intrinsics, settings):
        """colors [N, D] or [C, N, D] -> colours [C, H, W, D (+ 1)], alphas [C, H, W, 1], records."""
        count, gaussians = views.shape[0], means.shape[0]
        s: Settings = settings
        inputs = [t.detach().contiguous().numpy() for t in (means, quats, scales, opacities, colors)]
        values = inputs.pop()
        inputs.append(opacity_edges(inputs[3]))
        cameras, focal = views.numpy(), intrinsics.numpy()
        outputs = colors.shape[-1] + int(s.with_depth)
        records = np.empty((count, gaussians, RECORD), np.float32)
        rendered = np.empty((count, s.height, s.width, outputs), np.float32)
        rest = np.empty((count, s.height, s.width), np.float32)
        kept: list[Any] = [None] * count
        backward = any(ctx.needs_input_grad)

        def work(view: int) -> None:
            drawn = project_view(inputs, cameras[view], focal[view], s, records[view])
            view_colors = values[view] if values.ndim == 3 else values
            mode = int(s.with_depth)
            band = blend_view(
                records[view], drawn, view_colors, _NO_PLANES, mode, s, rendered[view], rest[view], backward
            )
            if backward:
                kept[view] = drawn, band

        each_view(work, count)
        # In numpy: torch's own threads would keep a core busy for a while after each of their operations.
        alphas = np.subtract(np.float32(1.0), rest)[..., None]
        out = torch.from_numpy(rendered), torch.from_numpy(alphas), torch.from_numpy(records)
        ctx.mark_non_differentiable(out[2])
        ctx.save_for_backward(means, quats, scales, opacities, colors, views, intrinsics, out[0], out[2])
        ctx.settings, ctx.kept, ctx.rest = settings, kept, rest
        return out

    @staticmethod
    def backward(ctx, v_rendered, v_alphas, _):
        """Gradients of means, quats, scales, opacities and colours."""
        s: Settings = ctx.settings
        saved = [t.detach().contiguous().numpy() for t in ctx.saved_tensors]
        means, quats, scales, _opacities, colors, views, intrinsics, rendered, records = saved
        rest = ctx.rest
        v_rendered_array = v_rendered.contiguous().numpy()
        v_alphas_array = v_alphas.contiguous().numpy()[..., 0]
        count, gaussians, width = views.shape[0], means.shape[0], GRADIENT + rendered.shape[-1]
        v_means, v_quats, v_scales = np.zeros_like(means), np.zeros_like(quats), np.zeros_like(scales)
        v_opacities = np.zeros(gaussians, np.float32)
        v_colors = np.zeros_like(colors)
        group = max(1, min(count, _GRADIENT_BYTES // max(4 * gaussians * width, 1)))
        for begin in range(0, count, group):
            end = min(begin + group, count)
            gradients = np.zeros((end - begin, gaussians, width), np.float32)

            def work(at: int, begin: int = begin, gradients: np.ndarray = gradients) -> None:
                view = begin + at
                view_colors = colors[view] if colors.ndim == 3 else colors
                drawn, band = ctx.kept[view]
                _blend_view_backward(
                    band, records[view], drawn, view_colors, s, rendered[view], rest[view], v_rendered_array[view],
                    v_alphas_array[view], gradients[at],
                )  # fmt: skip

            each_view(work, end - begin)

            def world(
                first: int, last: int, begin: int = begin, end: int = end, gradients: np.ndarray = gradients
            ) -> None:
                project_backward(
                    means, quats, scales, views[begin:end], intrinsics[begin:end], s.width, s.height, s.with_depth,
                    records[begin:end], gradients, first, last, v_means, v_quats, v_scales, v_opacities,
                    v_colors[begin:end] if colors.ndim == 3 else v_colors[None],
                )  # fmt: skip

            run(world, chunks(gaussians, 8192))
        grads = (v_means, v_quats, v_scales, v_opacities, v_colors)
        return (*(torch.from_numpy(grad) for grad in grads), None, None, None)


def rasterize_numba(
    gaussians: Sequence[Tensor],
    viewmats: Tensor,
    Ks: Tensor,
    settings: Settings,
) -> tuple[Tensor, Tensor, Tensor]:
    """Colours [C, H, W, D (+ 1)] without background, alphas [C, H, W, 1], records [C, N, RECORD].

    gaussians: means, quats, scales, opacities, colors, all float32 on the CPU.
    """
    views = viewmats.detach()[:, :3, :4].to(torch.float32).contiguous()
    intrinsics = camera_numbers(Ks)
    return _Rasterize.apply(*gaussians, views, intrinsics, settings)


def opacity_edges(opacities: np.ndarray) -> np.ndarray:
    """log(255 opacity) [N]: sigma where alpha falls to 1/255."""
    with np.errstate(all="ignore"):
        return np.log(np.float32(255.0) * opacities)


def whole_radii_of(records: Tensor) -> Tensor:
    """The half sides of the Gaussians' boxes in whole pixels, rounded up: int32 [C, N, 2] of records [C, N, RECORD]."""
    rows = records.numpy().reshape(-1, RECORD)
    radii = np.empty((rows.shape[0], 2), np.int32)
    run(lambda first, last: whole_radii(rows, first, last, radii), chunks(rows.shape[0], 32768, pieces_per_thread=1))
    return torch.from_numpy(radii.reshape(*records.shape[:2], 2))


def camera_numbers(Ks: Tensor) -> Tensor:
    """fx, fy, cx, cy of each camera, float32 [C, 4]."""
    K = Ks.detach().to(torch.float32)
    return torch.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], dim=-1).contiguous()


__all__ = [
    "RECORD",
    "TILE",
    "Band",
    "Drawn",
    "Settings",
    "bands",
    "blend_view",
    "camera_numbers",
    "opacity_edges",
    "project_view",
    "rasterize_numba",
    "whole_radii_of",
]
