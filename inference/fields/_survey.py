"""The first look at a field, tile by tile: sources, how bright they are, noise and sky."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree

from scorepriors._threads import one_thread
from scorepriors.models.data._detection import (
    detection_correlation,
    detection_image,
    find_left_over,
    find_sources,
)
from scorepriors.models.data._field_checks import HOPELESS, check_field, measure_field
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._tiles import Tile
from scorepriors.models.data.positions._light import displacement
from scorepriors.models.data.positions._margins import psf_fwhm
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.noise._correlation import of_filtered

from ._light import Light
from ._parts import Record, write_part
from ._tasks import Sources, Work, mended, quiet

#: Detections of two tiles closer than this are one source, pixels.
TWICE = 3.0


def owns(tile: Tile, places: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return which positions ``[N, 2]`` belong to a tile; those beyond the field to the nearest."""
    at = np.clip(np.round(places), 0, np.array(shape) - 1)
    first = np.array([tile.core_rows.start, tile.core_columns.start])
    last = np.array([tile.core_rows.stop, tile.core_columns.stop])
    return np.all((at >= first) & (at < last), axis=1)


class TileTask(NamedTuple):
    """Description of a tile for a task.

    Attributes
    ----------
    part
        File to write.
    tile
        The tile.
    known
        Sources in the pixels of the tile that are known already; None where all are to be found.
    light
        Light of the known sources, for a look at what they leave; None before there is a fit.
    mended
        What is subtracted from each band, and what errors are multiplied by; None for nothing.
    """

    part: Path
    tile: Tile
    known: Sources | None
    light: Light | None = None
    mended: tuple[np.ndarray, np.ndarray] | None = None


def survey_tile(work: Work, task: TileTask) -> dict[str, Any]:
    """Find sources of a tile, or measure the known ones, and check noise and sky."""
    tile, known = task.tile, task.known
    with quiet(), one_thread():
        obs = _tile(work, tile)
        first = np.array([tile.row, tile.column])
        displaced = ""
        if obs.num_pixels == 0:
            return _without_data(work, task, first)
        if known is None:
            found = find_sources(obs)
        else:
            found = Positions(known.ids, known.row_column - first, known.is_point)
            displaced = displacement(found, obs) if len(found) else ""
        said = check_field(obs, found) | ({"displaced": displaced} if displaced else {})
        empty = measure_field(obs, found)
    core = owns(tile, found.row_column + first, work.field.shape)
    sky = np.where(np.nan_to_num(empty.sky_is_significant), np.nan_to_num(empty.sky), 0.0)
    arrays = {
        "places": found.row_column[core] + first,
        "significance": significance(obs, found.row_column[core]),
        "ids": np.array([found.ids[k] for k in np.flatnonzero(core)], str),
        "sky": sky,
        "noise": np.asarray(empty.noise_factor, float),
        "hopeless": np.abs(sky) > HOPELESS * np.nan_to_num(empty.noise, nan=np.inf),
        "fwhm": np.array(psf_fwhm(obs.psfs)),
    }
    write_part(task.part, [Record(arrays, {"said": said, "tile": list(tile[:4])})])
    return {"tiles": 1, "sources": int(core.sum())}


def look_again(work: Work, task: TileTask) -> dict[str, Any]:
    """Find sources of a tile in what a first fit leaves."""
    tile, known, light = task.tile, task.known, task.light
    if known is None or light is None:
        raise ValueError("a second look needs the sources of the first and their light.")
    with quiet(), one_thread():
        obs = _tile(work, tile)
        if task.mended is not None and obs.num_pixels:
            obs = mended(obs, *task.mended)
        first = np.array([tile.row, tile.column])
        model = light.window(tile.row, tile.column, tile.height, tile.width)
        positions = Positions(known.ids, known.row_column - first, known.is_point)
        found = find_left_over(obs, model, positions) if obs.num_pixels else _NONE
    core = owns(tile, found.row_column + first, work.field.shape)
    arrays = {
        "places": found.row_column[core] + first,
        "significance": significance(obs, found.row_column[core], model),
    }
    write_part(task.part, [Record(arrays, {"tile": list(tile[:4])})])
    return {"tiles": 1, "sources": int(core.sum())}


_NONE = Positions((), np.zeros((0, 2)), np.zeros(0, bool))


def _without_data(work: Work, task: TileTask, first: np.ndarray) -> dict[str, Any]:
    """Write the part of a tile without any pixel: nothing is found, and nothing known of the known."""
    known, bands = task.known, len(work.field.bands)
    places = np.zeros((0, 2)) if known is None else known.row_column
    core = owns(task.tile, places, work.field.shape)
    middle = first + np.array([task.tile.height, task.tile.width]) / 2
    arrays = {
        "places": places[core],
        "significance": np.zeros(int(core.sum())),
        "ids": np.array([] if known is None else known.ids, str)[core],
        "sky": np.zeros(bands),
        "noise": np.ones(bands),
        "hopeless": np.zeros(bands, bool),
        "fwhm": np.array(psf_fwhm(work.field.psfs_at(*middle))),
    }
    write_part(task.part, [Record(arrays, {"said": {}, "tile": list(task.tile[:4])})])
    return {"tiles": 1, "sources": int(core.sum())}


def _tile(work: Work, tile: Tile) -> Observation:
    return work.field.window(tile.row, tile.column, tile.height, tile.width)


def significance(
    obs: Observation, places: np.ndarray, model: np.ndarray | None = None
) -> np.ndarray:
    """Return the signal to noise of points at positions ``[N, 2]`` in the sum of all bands."""
    if not len(places):
        return np.zeros(0)
    image, variance, mask = detection_image(obs, model)
    seen = (obs.weights > 0).any((1, 2))
    psf = obs.psfs[seen if seen.any() else slice(None)].mean(0)
    signal = fftconvolve(np.where(mask, 0.0, image), psf[::-1, ::-1], mode="same")
    power = of_filtered(psf[::-1, ::-1], detection_correlation(obs))
    noise = fftconvolve(np.where(mask, 0.0, variance), power, mode="same")
    at = np.clip(np.round(places).astype(int), 0, np.array(image.shape) - 1)
    rows, columns = at.T
    smallest = 1e-6 * max(float(noise.max()), 1e-30)
    return np.maximum(signal / np.sqrt(np.maximum(noise, smallest)), 0.0)[rows, columns]


def without_twins(places: np.ndarray, significance: np.ndarray) -> np.ndarray:
    """Return which of the detections of all tiles to keep, ``[N]``: of twins the brighter one."""
    keep = np.ones(len(places), bool)
    pairs = cKDTree(places).query_pairs(TWICE, output_type="ndarray") if len(places) else []
    for one, other in np.asarray(pairs, int).reshape(-1, 2):
        if keep[one] and keep[other]:
            keep[one if significance[one] < significance[other] else other] = False
    return keep
