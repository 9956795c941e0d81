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

from backend.render.gaussian_numba_bins import TILE, fill_tiles, sort_by_depth, tile_spans
from backend.render.gaussian_numba_project import RECORD, project
from backend.render.gaussian_numba_tiles import blend_tiles, blend_tiles_backward, gather_pairs
from backend.render.gaussian_numba_unproject import GRADIENT, project_backward
from backend.render.parallel import chunks, run, thread_count

_PAIRS_AT_ONCE = 1 << 22  # (tile, Gaussian) pairs of a band of tile rows, and floats of their gradients / 16
_GRADIENT_BYTES = 1 << 28  # of records' gradients, for a group of views
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
    """Tile rows [first_row, last_row) of a view: ids[starts[t] : starts[t + 1]] is the list of the band's tile t."""

    first_row: int
    last_row: int
    starts: np.ndarray
    ids: np.ndarray


def project_view(
    gaussians: Sequence[np.ndarray],
    view: np.ndarray,
    intrinsics: np.ndarray,
    settings: Settings,
    records: np.ndarray,
) -> np.ndarray:
    """Fill records [N, RECORD] of one view. gaussians: means, quats, scales, opacities and log(255 opacities).

    Gives back the boxes of tiles [N, 4] that the Gaussians' pictures lie in.
    """
    means, quats, scales, opacities, edges = gaussians
    boxes = np.empty((means.shape[0], 4), np.int16)
    s = settings
    numbers = [np.float32(number) for number in (s.near_plane, s.far_plane, s.eps2d, s.radius_clip)]

    def work(first: int, last: int) -> None:
        project(
            means, quats, scales, opacities, edges, view, intrinsics, s.width, s.height, *numbers, first, last,
            records, boxes,
        )  # fmt: skip

    run(work, chunks(means.shape[0], 4096))
    return boxes


def bands(
    records: np.ndarray, boxes: np.ndarray, settings: Settings, pairs_at_once: int = _PAIRS_AT_ONCE
) -> Iterator[Band]:
    """Yield the view's bands of tile rows, each of so many rows that its lists stay below `pairs_at_once`."""
    keys = np.ascontiguousarray(records[:, 6]).view(np.uint32)
    order = sort_by_depth(boxes, keys)
    placed, spans, counts = tile_spans(records, boxes, order, settings.width, settings.height)
    row_pairs, tiles_x = counts.sum(axis=1), counts.shape[1]
    first = 0
    while first < counts.shape[0]:
        last = first + 1
        while last < counts.shape[0] and row_pairs[first : last + 1].sum() <= pairs_at_once:
            last += 1
        starts = np.zeros((last - first) * tiles_x + 1, np.int64)
        np.cumsum(counts[first:last].reshape(-1), out=starts[1:])
        ids = np.empty(starts[-1], np.int32)

        def work(begin: int, end: int, first: int = first, starts: np.ndarray = starts, ids: np.ndarray = ids) -> None:
            fill_tiles(order, placed, spans, starts, tiles_x, first, first + begin, first + end, ids)

        run(work, chunks(last - first, 4, pieces_per_thread=1))
        yield Band(first, last, starts, ids)
        first = last


def blend_view(
    records: np.ndarray,
    boxes: np.ndarray,
    colors: np.ndarray,
    planes: np.ndarray,
    depth_mode: int,
    settings: Settings,
    out_colors: np.ndarray,
    out_rest: np.ndarray,
) -> Band | None:
    """Render one view into out_colors [H, W, ...] and out_rest [H, W]; see `blend_tiles`.

    Gives back the tile lists where one band holds them all, so that the backward pass need not make them again.
    """
    made = []
    for band in bands(records, boxes, settings):
        made = [band] if band.first_row == 0 else []

        def work(first: int, last: int, band: Band = band) -> None:
            blend_tiles(
                records, colors, planes, depth_mode, band.ids, band.starts, band.first_row, first, last, settings.width,
                settings.height, out_colors, out_rest,
            )  # fmt: skip

        run(work, chunks(band.starts.size - 1, 4, pieces_per_thread=8))
    return made[0] if made else None


def _blend_view_backward(
    ready: Band | None,
    records: np.ndarray,
    boxes: np.ndarray,
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
    todo = bands(records, boxes, settings, limit) if ready is None or ready.ids.size > limit else [ready]
    for band in todo:
        pairs = np.empty((band.ids.size, width), np.float32)

        def work(first: int, last: int, band: Band = band, pairs: np.ndarray = pairs) -> None:
            blend_tiles_backward(
                records, colors, settings.with_depth, band.ids, band.starts, band.first_row, first, last,
                settings.width, settings.height, rendered, rest, v_rendered, v_alphas, pairs,
            )  # fmt: skip

        run(work, chunks(band.starts.size - 1, 4, pieces_per_thread=8))

        def gather(first: int, last: int, band: Band = band, pairs: np.ndarray = pairs) -> None:
            gather_pairs(band.ids, pairs, first, last, out)

        run(gather, chunks(out.shape[0], 4096, pieces_per_thread=1))


def each_view(function: Callable[[int], None], views: int) -> None:
    """Call function(view) for every view: side by side if there are enough of them, else each with all threads."""
    if views >= thread_count():
        run(function, [(view,) for view in range(views)])
    else:
        for view in range(views):
            function(view)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, views, intrinsics, settings):
        """colors [N, D] or [C, N, D] -> colours [C, H, W, D (+ 1)], transmittance left [C, H, W], records."""
        count, gaussians = views.shape[0], means.shape[0]
        s: Settings = settings
        edges = torch.log(255.0 * opacities)
        inputs = [t.detach().contiguous().numpy() for t in (means, quats, scales, opacities, edges, colors)]
        cameras, focal = views.numpy(), intrinsics.numpy()
        outputs = colors.shape[-1] + int(s.with_depth)
        records = np.empty((count, gaussians, RECORD), np.float32)
        rendered = np.empty((count, s.height, s.width, outputs), np.float32)
        rest = np.empty((count, s.height, s.width), np.float32)
        kept: list[Any] = [None] * count

        def work(view: int) -> None:
            boxes = project_view(inputs[:5], cameras[view], focal[view], s, records[view])
            view_colors = inputs[5][view] if inputs[5].ndim == 3 else inputs[5]
            mode = int(s.with_depth)
            band = blend_view(records[view], boxes, view_colors, _NO_PLANES, mode, s, rendered[view], rest[view])
            if any(ctx.needs_input_grad):
                kept[view] = boxes, band

        each_view(work, count)
        out = torch.from_numpy(rendered), torch.from_numpy(rest), torch.from_numpy(records)
        ctx.mark_non_differentiable(out[2])
        ctx.save_for_backward(means, quats, scales, opacities, colors, views, intrinsics, *out)
        ctx.settings, ctx.kept = settings, kept
        return out

    @staticmethod
    def backward(ctx, v_rendered, v_rest, _):
        """Gradients of means, quats, scales, opacities and colours."""
        s: Settings = ctx.settings
        saved = [t.detach().contiguous().numpy() for t in ctx.saved_tensors]
        means, quats, scales, _opacities, colors, views, intrinsics, rendered, rest, records = saved
        v_rendered_array = v_rendered.contiguous().numpy()
        v_alphas_array = (-v_rest).contiguous().numpy()
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
                boxes, band = ctx.kept[view]
                _blend_view_backward(
                    band, records[view], boxes, view_colors, s, rendered[view], rest[view], v_rendered_array[view],
                    v_alphas_array[view], gradients[at],
                )  # fmt: skip

            each_view(work, end - begin)

            def world(
                first: int, last: int, begin: int = begin, end: int = end, gradients: np.ndarray = gradients
            ) -> None:
                project_backward(
                    means, quats, scales, views[begin:end], intrinsics[begin:end], s.width, s.height, s.with_depth,
                    records[begin:end], gradients, first, last, v_means, v_quats, v_scales, v_opacities,
                )  # fmt: skip

            run(world, chunks(gaussians, 8192))
            of_colors = gradients[:, :, GRADIENT : GRADIENT + colors.shape[-1]]
            if colors.ndim == 3:
                v_colors[begin:end] = of_colors
            else:
                v_colors += of_colors.sum(axis=0)
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
    rendered, rest, records = _Rasterize.apply(*gaussians, views, intrinsics, settings)
    return rendered, (1.0 - rest)[..., None], records


def camera_numbers(Ks: Tensor) -> Tensor:
    """fx, fy, cx, cy of each camera, float32 [C, 4]."""
    K = Ks.detach().to(torch.float32)
    return torch.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], dim=-1).contiguous()


__all__ = ["TILE", "Band", "Settings", "bands", "blend_view", "camera_numbers", "project_view", "rasterize_numba"]
