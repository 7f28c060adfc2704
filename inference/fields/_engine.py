"""The steps of a run over a field: survey, profiles, second look, final fits until seams agree."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from scorepriors._errors import InputError
from scorepriors.models.data._field_checks import HOPELESS, FieldWarning
from scorepriors.models.data._tiles import Tile, tiles
from scorepriors.models.data._warnings import note
from scorepriors.models.data.positions._positions import Positions

from ._census import Census
from ._light import Light
from ._parts import Place, Record, digest, read_arrays_of, read_part
from ._plan import FREE_FORM, PROFILES, STARS, Cell, batches, padded, plan_cells, reach_of
from ._progress import FieldProgress
from ._seams import changed
from ._survey import TWICE, TileTask, look_again, owns, survey_tile, without_twins
from ._tasks import BatchTask, SceneTask, Work, fit_final, fit_profiles, slots

#: Largest number of scenes in a batch, and of pixels of their renderings (sources x bands x pixels).
SCENES, PIXELS = 32, 64e6

#: Largest numbers of looks at what a first fit leaves, of parametric fits after the first, and of
#: final fits of a scene.
LOOKS, PASSES, FINALS = 2, 4, 3

#: Light of sources within this distance of a tile is known to it, pixels.
AROUND = 16.0


@dataclass(frozen=True)
class Survey:
    """What the first look told.

    Attributes
    ----------
    census
        The sources.
    fwhm
        Full width at half maximum of the PSF, pixels.
    sky, noise
        What is subtracted, and what errors are multiplied by, ``[T, B]`` by tile.
    doubts
        Sentences by code.
    notes
        What was mended, one sentence each.
    """

    census: Census
    fwhm: float
    sky: np.ndarray
    noise: np.ndarray
    doubts: dict[str, str]
    notes: tuple[str, ...] = ()


@dataclass
class Engine:
    """A run over a field.

    Attributes
    ----------
    work
        What tasks share.
    folder
        Folder of the parts.
    run
        Executor of tasks: ``run.map(function, tasks)`` yields (number, value).
    progress
        What is shown.
    mend
        Whether sky is subtracted and errors are rescaled.
    asked
        Whether that sky was asked for: then one of any brightness is, and nothing is said.
    places, profiled
        Records of scenes by name; and of parametric fits by the scene's own sources.
    latest
        Records of the latest parametric fits, those of all scenes.
    """

    work: Work
    folder: Path
    run: Any
    progress: FieldProgress
    mend: tuple[bool, bool] = (False, False)
    asked: bool = False
    places: dict[str, Place] = field(default_factory=dict)
    profiled: dict[str, Place] = field(default_factory=dict)
    latest: list[Place] = field(default_factory=list)

    @cached_property
    def tiles(self) -> list[Tile]:
        """Tiles of the field."""
        return tiles(self.work.field.shape)

    @cached_property
    def _edges(self) -> tuple[list[int], list[int]]:
        """First rows and columns of the tiles' cores."""
        rows = sorted({tile.core_rows.start for tile in self.tiles})
        return rows, sorted({tile.core_columns.start for tile in self.tiles})

    def _tile_of(self, place: np.ndarray) -> int:
        """Return the number of the tile in whose core a place is."""
        at = np.clip(np.round(place), 0, np.array(self.work.field.shape) - 1)
        row, column = (bisect_right(edges, k) - 1 for edges, k in zip(self._edges, at))
        return row * len(self._edges[1]) + column

    def survey(self, positions: Positions | None) -> Survey:
        """Find the sources, or look at the known ones."""
        known = None if positions is None else _known(positions)
        tasks = [self._tile_task("survey", k, known) for k in range(len(self.tiles))]
        self._all("survey", survey_tile, tasks, [1] * len(tasks), "tiles")
        records = [read_part(task.part)[0] for task in tasks]
        places = np.concatenate([r.arrays["places"] for r in records]).reshape(-1, 2)
        bright = np.concatenate([r.arrays["significance"] for r in records])
        if known is None:
            kept = without_twins(places, bright)
            places, bright = places[kept], bright[kept]
            order = np.lexsort((places[:, 1], places[:, 0], -bright))
            ids = [str(k + 1) for k in range(len(order))]
            census = Census.begin(
                ids, places[order], np.zeros(len(ids)), bright[order], given=False
            )
        else:
            names = np.concatenate([r.arrays["ids"] for r in records])
            found = dict(zip(names.tolist(), bright.tolist(), strict=True))
            census = replace(known, significance=np.array([found[name] for name in known.ids]))
        if not len(census):
            raise InputError("no source found in the whole field; give a catalog.")
        sky, noise = (np.stack([r.arrays[name] for r in records]) for name in ("sky", "noise"))
        hopeless = np.any([r.arrays["hopeless"] for r in records], axis=0)
        if hopeless.any() and not self.asked:
            bands = [b for b, is_so in zip(self.work.field.bands, hopeless, strict=True) if is_so]
            raise InputError(
                f"the sky is left in band {', '.join(bands)}: it is more than {HOPELESS:g} times the noise "
                "of a pixel; subtract it, or use subtract_sky=True (--subtract-sky in the shell)."
            )
        doubts = _doubts(records, self.mend)
        notes: tuple[str, ...] = ()
        if self.mend[0] and not self.asked and sky.any():
            notes = (_sky_words(self.work.field.bands, sky),)
            note(notes[0], FieldWarning)
        return Survey(
            census,
            float(max(r.arrays["fwhm"] for r in records)),
            sky if self.mend[0] else np.zeros_like(sky),
            noise if self.mend[1] else np.ones_like(noise),
            doubts,
            notes,
        )

    def profiles(self, survey: Survey, census: Census, name: str) -> tuple[list[Cell], Light]:
        """Fit parametric scenes together with their halos; return the plan and all light."""
        field = self.work.field
        cells = plan_cells(census.places, census.significance, survey.fwhm, field.shape)
        scenes = [self._scene(survey, census, cell, True, None) for cell in cells]
        # Where only the halo has changed the fit stays: the final one knows the light of others.
        new = [scene for scene in scenes if scene.own_name not in self.profiled]
        self._fits("profiles", fit_profiles, new, None)
        self.profiled |= {scene.own_name: self.places[scene.name] for scene in new}
        self.latest = [self.profiled[scene.own_name] for scene in scenes]
        return cells, self._light_of(name, cells, self.latest)

    def weighed(self, survey: Survey, census: Census, cells: Sequence[Cell]) -> Census:
        """Return the sources with what the parametric fits say about them."""
        p_star, evidence = np.full((2, len(census)), np.nan)
        for cell in cells:
            scene = self._scene(survey, census, cell, True, None)
            own = list(cell.own)
            found = read_arrays_of(self.profiled[scene.own_name], "p_star", "evidence")
            p_star[own], evidence[own] = found
        return replace(census, p_star=p_star, evidence=evidence)

    def look_again(
        self, survey: Survey, census: Census, light: Light, number: int, dropped: np.ndarray
    ) -> Census:
        """Return the sources with those that are in the residual, but none at a `dropped` place."""
        step = f"residual-{number}"
        tasks = [self._tile_task(step, k, census, light, survey) for k in range(len(self.tiles))]
        self._all("residual", look_again, tasks, [1] * len(tasks), "tiles")
        records = [read_part(task.part)[0] for task in tasks]
        places = np.concatenate([r.arrays["places"] for r in records]).reshape(-1, 2)
        bright = np.concatenate([r.arrays["significance"] for r in records])
        # Where sources overlap, their scenes know more than the residual shows.
        lacks = np.concatenate([read_arrays_of(one, "lacks")[0] for one in self.latest])
        places = np.concatenate([places, lacks[:, :2]])
        bright = np.concatenate([bright, lacks[:, 2]])
        kept = without_twins(places, bright)
        if len(dropped):
            kept &= cKDTree(dropped).query(places)[0] > TWICE if len(places) else True
        return census.with_added(places[kept], bright[kept])

    def finals(
        self, survey: Survey, census: Census, cells: Sequence[Cell], light: Light
    ) -> tuple[list[SceneTask], Light, list[int], list[int]]:
        """Deblend all scenes, and again those whose neighbors changed.

        Returns the scenes, all light, how often each was fitted, and the numbers of those that are
        not settled.
        """
        alone = [self._scene(survey, census, cell, False, None) for cell in cells]
        scenes = [scene._replace(before=self.profiled[scene.own_name]) for scene in alone]
        rounds, todo = [0] * len(cells), list(range(len(cells)))
        for number in range(1, FINALS + 1):
            step = f"final-{number}"
            self._fits(step, fit_final, [scenes[k] for k in todo], light)
            for k in todo:
                rounds[k] = number
                scenes[k] = scenes[k]._replace(before=self.places[f"{step}/{scenes[k].name}"])
            light = self._light_of(step, cells, [_before(scene) for scene in scenes])
            todo = [k for k, scene in enumerate(scenes) if changed(scene, light, survey.fwhm)]
            if not todo:
                break
        return scenes, light, rounds, todo

    def _scene(self, survey: Survey, census: Census, cell: Cell, with_halo: bool, before):
        middle = np.array(cell.window[:2]) + (cell.window.size - 1) / 2
        tile = self._tile_of(middle)
        halo = census.of(cell.halo) if with_halo and cell.halo else None
        hidden = np.array(cell.hidden if with_halo else (), int)
        reach = reach_of(census.significance[hidden], survey.fwhm)
        discs = np.column_stack([census.places[hidden], reach])
        mended = survey.sky[tile], survey.noise[tile]
        return SceneTask(cell.window, census.of(cell.own), halo, discs, before, *mended)

    def _fits(self, step: str, function: Callable, scenes: list[SceneTask], light) -> None:
        """Fit scenes in batches of one shape; those that are done already are not fitted again."""
        final = light is not None
        label = f"{step}/" if final else ""
        new = [scene for scene in scenes if f"{label}{scene.name}" not in self.places]
        # Where only some galaxies get a free form, all are profiles first: the same programs as before.
        options = self.work.settings.options
        network = final and options.has_free_forms and options.models != "simplest"
        steps = FREE_FORM if network else PROFILES
        numbers = [_padded(*n, steps, final=final) for n in slots(new)]
        bands = len(self.work.field.bands)
        structured = [final and self._is_structured(scene) for scene in new]
        each = zip(new, numbers, structured, strict=True)
        keys = [(scene.window.size, *n, is_so) for scene, n, is_so in each]
        most = [_fitting(size, sum(n), bands) for size, *n, _ in keys]
        tasks, counts, members = [], [], []
        for batch in batches(keys, most):
            chosen = tuple(new[k] for k in batch)
            # Where the light of others matters it is part of the input.
            mark = digest(step, str(light.path.name) if final else "", *[s.name for s in chosen])
            part = self.folder / step / f"{mark}.npz"
            first = batch[0]
            tasks.append(BatchTask(part, chosen, numbers[first], light, structured[first]))
            counts.append(len(chosen))
            members.append(chosen)
        self._all(step, function, tasks, counts, "scenes")
        for task, chosen in zip(tasks, members, strict=True):
            for number, scene in enumerate(chosen):
                self.places[f"{label}{scene.name}"] = Place(task.part, number)

    def _is_structured(self, scene: SceneTask) -> bool:
        """Return whether profiles did not come to rest in a scene that may have free forms."""
        (is_so,) = read_arrays_of(self.profiled[scene.own_name], "is_structured")
        return bool(is_so) and self.work.settings.options.has_free_forms

    def _all(self, step: str, function: Callable, tasks: list, counts: list[int], unit: str):
        """Run the tasks whose parts are not there."""
        todo = [k for k, task in enumerate(tasks) if not task.part.exists()]
        before = sum(counts) - sum(counts[k] for k in todo)
        self.progress.step(step, sum(counts), done=before, unit=unit)
        for number, value in self.run.map(function, [tasks[k] for k in todo], shared=self.work):
            self.progress.advance(counts[todo[number]], value["sources"])

    def _tile_task(
        self,
        step: str,
        number: int,
        known: Census | None,
        light: Light | None = None,
        survey: Survey | None = None,
    ) -> TileTask:
        tile, own = self.tiles[number], None
        mended = None if survey is None else (survey.sky[number], survey.noise[number])
        if known is not None:
            size = (tile.height, tile.width)
            # Those far beyond the field belong to the nearest tile.
            mine = np.flatnonzero(owns(tile, known.places, self.work.field.shape))
            near = known.within((tile.row, tile.column), size, AROUND)
            own = known.of(np.union1d(near, mine))
        parts: list[Any] = [tuple(tile[:4])] + ([] if own is None else [own.ids, *own[1:]])
        mark = digest(step, *parts, *(mended or ()), "" if light is None else light.path.name)
        return TileTask(self.folder / step / f"{mark}.npz", tile, own, light, mended)

    def _light_of(self, name: str, cells: Sequence[Cell], places: Sequence[Place]) -> Light:
        """Add up the light of scenes; the file is named after what went into it."""
        mark = digest(name, [f"{place.part.name}/{place.number}" for place in places])
        field = self.work.field
        light = Light(self.folder / f"light-{mark}.dat", len(field.bands), field.shape)
        if not light.is_there:
            for old in self.folder.glob("light-*.dat"):
                old.unlink()
            light.write(_windows(cells, places))
        return light


def _windows(cells: Sequence[Cell], places: Sequence[Place]):
    """Yield windows and light of scenes in the order of the plan."""
    for cell, place in zip(cells, places, strict=True):
        (light,) = read_arrays_of(place, "light")
        yield cell.window, light


def _before(scene: SceneTask) -> Place:
    assert scene.before is not None
    return scene.before


def _known(positions: Positions) -> Census:
    places, is_point = positions.row_column, positions.is_point
    return Census.begin(positions.ids, places, is_point, np.zeros(len(places)), given=True)


def _padded(stars: int, galaxies: int, steps: Sequence[int], *, final: bool) -> tuple[int, int]:
    """Return the slots for stars and galaxies; without galaxies there is no network to run."""
    if final and not galaxies:
        return padded(stars, STARS), 0
    return padded(stars, STARS), padded(galaxies, steps)


def _fitting(size: int, sources: int, bands: int) -> int:
    """Return how many scenes of a shape a batch may have."""
    return int(np.clip(PIXELS // (size * size * sources * bands), 1, SCENES))


def _sky_words(bands: Sequence[str], sky: np.ndarray) -> str:
    """Return a sentence on the sky that was subtracted, ``[T, B]``."""
    largest = np.take_along_axis(sky, np.abs(sky).argmax(0)[None], 0)[0]
    levels = ", ".join(f"{b} {one:.3g}" for b, one in zip(bands, largest, strict=True) if one)
    tiles = int((sky != 0).any(1).sum())
    return (
        f"a sky was left in {tiles} of {len(sky)} tiles ({levels}, at most, in image units), and was "
        "subtracted; sky='none' (--sky none) keeps it."
    )


def _doubts(records: Sequence[Record], mend: tuple[bool, bool]) -> dict[str, str]:
    """Return sentences by code: of all tiles that say the same the first, and how many they are."""
    out = {}
    for code in sorted({code for record in records for code in record.facts["said"]}):
        if (code == "noise" and mend[1]) or (code == "sky" and mend[0]):
            continue
        said = [r for r in records if code in r.facts["said"]]
        row, column, height, width = said[0].facts["tile"]
        where = f"rows {row} to {row + height - 1}, columns {column} to {column + width - 1}"
        many = f"in {len(said)} of {len(records)} tiles, first {where}: "
        out[code] = ("" if len(records) == 1 else many) + said[0].facts["said"][code]
    return out
