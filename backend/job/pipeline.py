"""The way of one job: views, reconstruct, surface, texture, export; each result is on disk before the next begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from backend.datatypes import Gaussians, Mesh, Step, TexturedMesh
from backend.device import pick_device
from backend.errors import BadInput, Cancelled
from backend.formats.gaussian_ply import read_gaussian_ply, write_gaussian_ply
from backend.formats.images import write_png
from backend.formats.transforms_json import write_transforms
from backend.formats.whole_file import whole_file
from backend.job.clock import Clock
from backend.job.events import Done, Event, Preview, Progress, Warned
from backend.job.generating import begin_picture, begin_views, check_weights, untrained_notes
from backend.job.imagined import shown_as_seen
from backend.job.jobfolder import (
    BASE_COLOR,
    GAUSSIANS,
    MESH_ARRAYS,
    MESH_GLB,
    PICTURE,
    PICTURE_PREVIEW,
    PREVIEW,
    REQUEST,
    TRANSFORMS,
    JobFolder,
)
from backend.job.models import Models
from backend.job.outside import load_job_views, load_posed_pictures
from backend.job.planning import plan_of, work_of
from backend.job.refining import Refiner, load_all_pictures
from backend.job.report import Report
from backend.job.request import Request
from backend.memory import is_out_of_memory, out_of_memory
from backend.recipes import Reconstructor, find_recipe

T = TypeVar("T")
Events = Generator[Event, None, T]
_PREVIEW_SECONDS = 0.5
_MOST_SHOWN = 24


def run_job(
    request: Request,
    folder: Path | str,
    *,
    from_stage: str | None = None,
    to_stage: str | None = None,
    models: Models | None = None,
    device: str = "auto",
    stop: Callable[[], bool] | None = None,
) -> Iterator[Event]:
    """Walk a job and yield what happens; the last event is Done.

    from_stage, to_stage: the first and the last of "picture", "views", "gaussians", "mesh" to make; what comes before
    is read from the folder. models: loaded networks, kept by the caller from job to job. stop: asked between steps;
    where it says yes, Cancelled is raised. Results that are finished stay in the folder, nothing half-made does.

    Raises BadInput, MissingWeights, OutOfMemory, UnsupportedDevice, Cancelled.
    """
    job = _Job(request, JobFolder(folder), models or Models(), device, stop or (lambda: False))
    try:
        yield from job.run(from_stage, to_stage)
    except BaseException as error:  # also where the walk is given up: a folder without a result is no job
        job.folder.remove_if_empty()
        if is_out_of_memory(error):
            raise out_of_memory(job.device, job.clock.stage) from error
        raise


class _Job:
    """One walk; holds what every stage needs."""

    def __init__(
        self, request: Request, folder: JobFolder, models: Models, device: str, stop: Callable[[], bool]
    ) -> None:
        self.request, self.folder, self.models, self.stop = request, folder, models, stop
        self.recipe = find_recipe(request.recipe)
        self.device = device
        self.clock = Clock({})
        self.report = Report(request, folder)
        self.told: list[str] = []
        self.plan: list[str] = []
        self._asked: Reconstructor | None = None
        self._previewed = 0.0

    def run(self, from_stage: str | None, to_stage: str | None) -> Events[None]:
        self.plan = plan = plan_of(self.request, self.folder, from_stage, to_stage)
        check_weights(self.request, self.recipe, plan)
        self.device = pick_device(self.device)
        self.clock = Clock(work_of(plan, self.request, self.recipe, self.device), self.models.timings)
        self.folder.create(keep=self._source_path())
        self.report.begin(plan, self.device)

        makers = {
            "picture": self._make_picture,
            "views": self._make_views,
            "gaussians": self._make_gaussians,
            "mesh": self._make_mesh,
        }
        for result in plan:
            self.report.result = result
            yield from makers[result]()
            # After each, so that a job that is stopped and gone on with later still knows where its results come from.
            self.report.write(self.clock.seconds, self.told)
        for stage, spent in self.clock.seconds.items():
            self.models.timings.learn(self.clock.work[stage], spent)
        seconds = round(time.perf_counter() - self.clock.began, 3)
        yield Done(str(self.folder.path), self.folder.files(), list(self.told), seconds)

    def _source_path(self) -> Path | None:
        return Path(self.request.gaussians) if self.request.gaussians else None

    # -- telling ------------------------------------------------------------------------------------------------------

    def _warn(self, messages: list[str]) -> Iterator[Event]:
        for message in messages:
            if message not in self.told:
                self.told.append(message)
                yield Warned(message)

    def _check_stop(self) -> None:
        if self.stop():
            raise Cancelled("The job was cancelled.", "Finished results are kept; start it again to go on.")

    def _begin(self, stage: str, message: str) -> Progress:
        self._check_stop()
        return self.clock.begin(stage, message)

    def _begin_result(self, result: str, keep: Path | None = None) -> None:
        """A result is computed and about to be renamed into place; only now does anything in the folder change."""
        self.folder.begin_result(result, keep=keep, first=result == self.plan[0])
        self.folder.write_json(REQUEST, self.request.to_json())

    def _walk(self, steps: Generator[Step, None, T], kind: str | None = None) -> Events[T]:
        """Walk a stage of the running kind to its end, asking between steps whether to go on."""
        try:
            while True:
                self._check_stop()
                try:
                    step = next(steps)
                except StopIteration as end:
                    return end.value
                yield self.clock.at(step.step, step.steps, step.message)
                if step.preview is not None and kind and time.perf_counter() - self._previewed > _PREVIEW_SECONDS:
                    self._previewed = time.perf_counter()
                    yield self._show(step.preview, kind)
        finally:
            steps.close()

    def _show(self, pictures: torch.Tensor, kind: str) -> Preview:
        """Pictures [V, 4, H, W], of the kind "views" or "picture", side by side in one; of very many a few."""
        some = pictures[:: -(-len(pictures) // _MOST_SHOWN)]
        path = self.folder / (PICTURE_PREVIEW if kind == "picture" else PREVIEW)
        write_png(path, torch.cat(list(some.detach().float().cpu()), dim=2))
        return Preview(kind, str(path))

    # -- the stages ---------------------------------------------------------------------------------------------------

    def _make_picture(self) -> Events[None]:
        yield self._begin("picture", "Loading the model that makes pictures of words")
        walk, notes = begin_picture(self.request, self.recipe, self.models, self.report, self.device)
        yield from self._warn(notes)
        picture = yield from self._walk(walk, "picture")
        self._check_stop()
        with whole_file(self.folder / PICTURE) as temporary:
            write_png(temporary, picture)
            self._begin_result("picture")
        self.clock.end()
        seen, notes = shown_as_seen(self.folder / PICTURE)
        yield self._show(seen[None], "picture")
        if self.plan[-1] == "picture":  # else those who go on with it say so
            yield from self._warn(notes)

    def _make_views(self) -> Events[None]:
        if self.request.cameras is not None:
            yield self._begin("views", "Reading the posed pictures")
            notes: list[str] = []
            if self.request.refine_steps is not None:
                posed = load_all_pictures(self.request.cameras, notes)
            else:
                posed = load_posed_pictures(self.request.cameras, self.recipe, notes)
            yield from self._warn(notes)
            self.report.similarity, self.report.posed_pictures = posed.similarity, posed.names
            views = posed.views
        else:
            yield self._begin("views", "Loading the view generator")
            imagined = self.folder / PICTURE if self.request.makes_picture else None
            walk, notes = begin_views(self.request, self.recipe, self.models, self.report, self.device, imagined)
            yield from self._warn(notes)
            views = (yield from self._walk(walk, "views")).to("cpu")
        self._check_stop()
        names = self.folder.view_names(len(views))
        with ExitStack() as stack:
            # Renamed in the reverse order, so that the cameras, which say that there are views, come last.
            cameras = stack.enter_context(whole_file(self.folder / TRANSFORMS))
            for name, rgba in zip(names, views.rgba, strict=True):
                write_png(stack.enter_context(whole_file(self.folder / name)), rgba)
            write_transforms(cameras, views.cameras, names)
            self._begin_result("views")
        self.folder.drop_extra_views(len(views))
        if not self.request.makes_picture:
            self.folder.drop_picture()  # of an earlier job, from which these were not made
        self.clock.end()
        yield self._show(views.rgba, "views")

    def _make_gaussians(self) -> Events[None]:
        notes: list[str] = []
        if self.request.gaussians is not None:
            yield self._begin("reconstruct", "Reading the Gaussians")
            source = Path(self.request.gaussians)
            gaussians = read_gaussian_ply(source, notes)
            yield from self._warn(notes)
        else:
            yield self._begin("reconstruct", "Loading the reconstructor")
            # From the disk even where they were just made: going on from a folder later gives the same bits.
            views = load_job_views(self.folder / TRANSFORMS, notes)
            if self._own_views():
                views = replace(views, caption=self.request.prompt or "")
            yield from self._warn(notes)
            yield from self._warn(untrained_notes(self.request, self.recipe))
            notes = []
            if self.request.refine_steps is None:
                walk = self.models.trying("reconstruct", lambda: self._network().reconstruct(views, notes))
                gaussians = (yield from self._walk(walk)).to("cpu")
            else:
                refiner = self._refiner(self.request.refine_steps)
                gaussians = yield from self._walk(refiner.reconstruct(views, notes))
                self.report.refinement = refiner.facts
            for pack in getattr(self._asked, "used_packs", ()):
                self.report.use_pack(pack)
            yield from self._warn(notes)
            source = None
        self._check_stop()
        target = self.folder / GAUSSIANS
        if source is not None and target.exists() and target.samefile(source):
            self._begin_result("gaussians", keep=target)  # the user's own file stays as it is
        else:
            with whole_file(target) as temporary:
                if write_gaussian_ply(temporary, gaussians) == 0:
                    raise BadInput("Every Gaussian is transparent: there is no object.", "Try another seed or source.")
                self._begin_result("gaussians")
        self.report.sizes["gaussians"] = len(gaussians)
        self.clock.end()

    def _network(self) -> Reconstructor:
        untrained = bool(self.request.random_weights)
        network = self._asked = self.models.reconstructor(self.recipe, self.device, untrained)
        if not untrained and not hasattr(network, "used_packs"):  # the others know only when they are done
            self.report.use_pack(self.recipe.pack)
        return network

    def _refiner(self, steps: int) -> Refiner:
        request, similarity = self.request, self.report.known_similarity()
        return Refiner(self._network, self.recipe, request.start, steps, request.seed, similarity, self.device)

    def _imagined(self) -> bool:
        """Whether a generator made what the job is about: it was asked for one object."""
        return self.request.gaussians is None and self.request.cameras is None

    def _own_views(self) -> bool:
        """Whether this recipe's own generator made the views, and not another recipe's, of which there is a report."""
        way = self.recipe.from_picture if self.request.image is not None else self.recipe.from_text
        return self._imagined() and way is not None and ("views" in self.plan or self.report.names(way.pack))

    def _make_mesh(self) -> Events[None]:
        notes: list[str] = []
        self.models.make_room_for_mesh()
        gaussians = read_gaussian_ply(self.folder / GAUSSIANS, notes)
        yield from self._warn(notes)
        self.report.sizes["gaussians"] = len(gaussians)
        yield self._begin("surface", "Finding the surface")
        mesh = yield from self._walk(_surface(gaussians, self.request.faces, self._imagined()))
        self.clock.end()
        made = mesh.faces.shape[0]
        if made < 0.95 * self.request.faces:
            yield from self._warn([f"The surface has {made:,} faces; it holds no detail for {self.request.faces:,}."])
        elif made > 1.05 * self.request.faces:
            yield from self._warn([f"The mesh has {made:,} faces: with {self.request.faces:,} it would tear."])
        yield self._begin("texture", "Baking the texture")
        textured = yield from self._walk(_texture(gaussians, mesh, self.request.texture_size))
        self.clock.end()
        yield self._begin("export", "Writing the mesh")
        self._check_stop()
        self._export(textured)
        self.clock.end()
        yield self.clock.at(1, 1, "Done")
        yield Preview("mesh", str(self.folder / MESH_ARRAYS))

    def _export(self, textured: TexturedMesh) -> None:
        from backend.formats.glb import write_glb
        from backend.formats.mesh_arrays import write_mesh_npz
        from backend.formats.mesh_files import write_mesh_format

        with ExitStack() as stack:
            # Renamed in the reverse order: mesh.npz, which says that there is a mesh, last.
            arrays, glb, picture = (
                stack.enter_context(whole_file(self.folder / name)) for name in (MESH_ARRAYS, MESH_GLB, BASE_COLOR)
            )
            for name in self.request.mesh_formats:
                paths = [stack.enter_context(whole_file(path)) for path in self.folder.format_paths(name)]
                write_mesh_format(name, paths, textured)
            write_png(picture, textured.base_color)
            write_glb(glb, textured)
            write_mesh_npz(arrays, textured)
            self._begin_result("mesh")
        self.report.sizes |= {
            "vertices": textured.mesh.vertices.shape[0],
            "faces": textured.mesh.faces.shape[0],
            "texture": textured.base_color.shape[-1],
        }


def _surface(gaussians: Gaussians, faces: int, single: bool) -> Generator[Step, None, Mesh]:
    from backend.surface.extract import extract_surface
    from backend.surface.refine import refined
    from backend.surface.simplify import simplify

    def simplified() -> Generator[Step, None, Mesh]:
        return simplify((yield from extract_surface(gaussians, faces=faces, single=single)), faces)

    return (yield from refined(simplified(), gaussians))


def _texture(gaussians: Gaussians, mesh: Mesh, size: int) -> Generator[Step, None, TexturedMesh]:
    from backend.texture.bake import bake_texture

    return (yield from bake_texture(gaussians, mesh, size))
