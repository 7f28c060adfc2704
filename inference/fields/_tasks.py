"""What workers do: look at tiles, and fit batches of scenes.

A task is a function of the `Work`, which all of them share, and of a small description.  It writes
its part and returns a few numbers.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scorepriors._errors import InputError
from scorepriors._loops import interrupts_at_once
from scorepriors._threads import one_thread
from scorepriors.inference.deblending._catalog import catalog
from scorepriors.inference.deblending._deblend import Run
from scorepriors.inference.deblending._doubts import doubts_of_fit
from scorepriors.inference.deblending._evidence import Fitted, Weighed, each_alone, weighed
from scorepriors.inference.deblending._flags import FLAGS, words_of
from scorepriors.inference.deblending._local import Window as Part
from scorepriors.inference.deblending._local import windows
from scorepriors.inference.deblending._missing import missing
from scorepriors.inference.deblending._options import Settings
from scorepriors.inference.deblending._result import Deblended, FittedScene
from scorepriors.inference.deblending._sky import no_sky
from scorepriors.inference.deblending._stages import Blend, prepare
from scorepriors.inference.deblending._unexplained import (
    Unexplained,
    unexplained,
    unexplained_words,
)
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._own_noise import mean_of_nine
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.noise._sky import SKIES

from ._light import Light
from ._parts import Place, Record, digest, read_arrays_of, write_part
from ._plan import Window
from ._psfs import psf_change

#: Error of profiles as a share of the light, in parametric fits: bright spirals would bend them to
#: needles that mend an arm, for hundreds of iterations.  And the most of these.
MISFIT, ITERATIONS = 0.05, 100

#: Least gain in nats for which a scene is fitted again with a source more: to stay it has to be worth
#: two more by the evidence, which can gain more than a template at one place but pays for its shape.
WORTH_A_FIT = 7.0

#: Distance to the mask of a hidden source within which a scene lacks nothing, pixels.
BESIDE = 3.0


@dataclass(frozen=True)
class Work:
    """What all tasks of a run share.

    Attributes
    ----------
    field
        The field, a `scorepriors.models.Field`.
    settings
        Options and priors of the fits.
    key
        Random key, or None.
    """

    field: Any
    settings: Settings
    key: Any = None


class Sources(NamedTuple):
    """Sources of a scene, in pixels of the field.

    Attributes
    ----------
    ids
        Names.
    row_column
        Positions ``[N, 2]``.
    is_point
        Mask ``[N]`` of the stars.
    """

    ids: tuple[str, ...]
    row_column: np.ndarray
    is_point: np.ndarray


class SceneTask(NamedTuple):
    """Description of a scene for a task.

    Attributes
    ----------
    window
        Its pixels.
    own, halo
        Its sources, and others that are fitted with them but belong to other scenes.
    hidden
        Places (row, column) and radii of others, whose light is masked, ``[M, 3]``.
    before
        Record that holds the light of the scene's own sources; None before there is one.
    sky, noise
        What is subtracted from each band, and what errors are multiplied by, ``[B]``.
    """

    window: Window
    own: Sources
    halo: Sources | None
    hidden: np.ndarray
    before: Place | None
    sky: np.ndarray
    noise: np.ndarray

    @property
    def name(self) -> str:
        """A digest of the input, by which the record of the scene is found again."""
        return digest(self._digest(self.own, self.halo), self.hidden)

    @property
    def own_name(self) -> str:
        """The same without the halo."""
        return self._digest(self.own)

    def _digest(self, *each: Sources | None) -> str:
        parts: list[Any] = [tuple(self.window), self.sky, self.noise]
        for sources in each:
            parts += ["none"] if sources is None else [sources.ids, *sources[1:]]
        return digest(*parts)


class BatchTask(NamedTuple):
    """Description of a batch of scenes.

    Attributes
    ----------
    part
        File to write.
    scenes
        The scenes.
    numbers
        Slots for stars and for galaxies.
    light
        Image of all sources' light, of which that of others is subtracted; None for none.
    is_structured
        Whether profiles did not come to rest in these scenes, as in galaxies with arms and lumps: then
        free forms begin after as many iterations, and no more time is lost with profiles.
    """

    part: Path
    scenes: tuple[SceneTask, ...]
    numbers: tuple[int, int]
    light: Light | None
    is_structured: bool = False


def fit_profiles(work: Work, batch: BatchTask) -> dict[str, Any]:
    """Fit the parametric scenes of a batch, halo included, and write its part."""
    options = work.settings.options
    most = min(ITERATIONS, options.max_iterations)
    # A source that is not in the scene yet is no outlier, and `forgiving` is the model's error.
    options = replace(options, free_form=False, max_iterations=most)
    options = replace(options, outliers=False, model_error=False)
    settings = replace(work.settings, options=options)
    run = Run(settings, batch.numbers, key=work.key)

    def fit(scenes: Sequence[SceneTask], images: Sequence[Observation]) -> list[Record]:
        started = time.monotonic()
        pairs = zip(scenes, map(forgiving, images), strict=True)
        blends = [_blend(work, *pair, None) for pair in pairs]
        fitted = run.profiles(blends)
        each = []
        for scene, b, one in zip(scenes, blends, fitted, strict=True):
            own = np.arange(len(scene.own.ids))
            each.append(Fitted(b.obs, b.positions, one, own))
        looks = []
        for scene, whole, alone in zip(scenes, each, each_alone(each, settings), strict=True):
            # Windows are larger than all else of a scene: those of one scene at a time are there.
            parts = list(windows(whole.scene, whole.rows))
            looks.append((weighed(whole, alone, parts=parts), _lacks(scene, whole, parts)))
            del parts
        seconds = (time.monotonic() - started) / len(fitted)
        return [
            _profile_record(scene, one, *look, seconds)
            for scene, one, look in zip(scenes, fitted, looks, strict=True)
        ]

    return _fit(work, batch, fit)


def fit_final(work: Work, batch: BatchTask) -> dict[str, Any]:
    """Deblend the scenes of a batch on the data without the light of others; write its part."""
    few = min(ITERATIONS, work.settings.options.max_iterations) if batch.is_structured else None
    run = Run(work.settings, batch.numbers, key=work.key, profile_iterations=few)

    def fit(scenes: Sequence[SceneTask], images: Sequence[Observation]) -> list[Record]:
        started = time.monotonic()
        others = [others_of(scene, batch.light) for scene in scenes]
        blends = [_blend(work, *one) for one in zip(scenes, images, others, strict=True)]
        results: Any = run.all(blends)
        seconds = (time.monotonic() - started) / len(results)
        changes = [psf_change(work.field, scene.window) for scene in scenes]
        each = zip(scenes, results, others, changes, strict=True)
        return [_final_record(*one, seconds, batch.is_structured) for one in each]

    return _fit(work, batch, fit)


def _fit(work: Work, batch: BatchTask, fit: Callable) -> dict[str, Any]:
    """Fit the scenes with data, write records of all, and return their numbers."""
    # A part is written as a whole or not at all: half a fit is never kept.
    with quiet(), interrupts_at_once(), one_thread():
        images = [_pixels(work, scene) for scene in batch.scenes]
        seen = [k for k, obs in enumerate(images) if obs.num_pixels]
        found = _each(
            fit, [(k, batch.scenes[k], _mended(batch.scenes[k], images[k])) for k in seen]
        )
    records = [
        found[k]
        if isinstance(found.get(k), Record)
        else _blank(work, scene, batch.light, found.get(k))
        for k, scene in enumerate(batch.scenes)
    ]
    write_part(batch.part, records)
    return {"scenes": len(records), "sources": sum(len(s.own.ids) for s in batch.scenes)}


def _each(fit: Callable, scenes: list[tuple[int, SceneTask, Observation]]) -> dict[int, Any]:
    """Return records by number; of a scene that can't be fitted the reason instead.

    One scene of ten thousand must not end a run, nor change what its batch says.
    """
    if not scenes:
        return {}
    try:
        records = fit([scene for _, scene, _ in scenes], [obs for *_, obs in scenes])
    except (np.linalg.LinAlgError, ArithmeticError, InputError) as error:
        if len(scenes) == 1:
            return {scenes[0][0]: str(error)}
        return {k: one for item in scenes for k, one in _each(fit, [item]).items()}
    return {number: record for (number, *_), record in zip(scenes, records, strict=True)}


def blend_again(work: Work, scene: SceneTask, others: np.ndarray) -> Blend:
    """Return the blend of a scene without the light ``[B, S, S]`` of others, with its sky positions."""
    with quiet():
        obs = _pixels(work, scene)
        own = replace(_mended(scene, obs), wcs=obs.wcs, scale=obs.scale)
        return _blend(work, scene, own, others)


def others_of(scene: SceneTask, light: Light | None) -> np.ndarray:
    """Return the light of all other sources in the window of a scene, ``[B, S, S]``."""
    if light is None or scene.before is None:
        raise ValueError("the light of others is known after a first fit only.")
    (own,) = read_arrays_of(scene.before, "light")
    return light.of(scene.window) - own


def _pixels(work: Work, scene: SceneTask) -> Observation:
    size = scene.window.size
    return work.field.window(scene.window.row, scene.window.column, size, size)


def _mended(scene: SceneTask, obs: Observation) -> Observation:
    """Return the pixels of a scene without sky and hidden sources, errors rescaled."""
    if len(scene.hidden):
        rows, columns, radius = scene.hidden.T - [[scene.window.row], [scene.window.column], [0]]
        along = np.arange(scene.window.size)
        down, right = (along[:, None] - rows) ** 2, (along[:, None] - columns) ** 2
        dark = (down[:, None] + right[None] < radius**2).any(-1)
        obs = replace(obs, weights=np.where(dark, 0.0, obs.weights).astype(obs.weights.dtype))
    # Positions on the sky are those of the whole field, once at the end.
    return replace(mended(obs, scene.sky, scene.noise), wcs=None, scale=obs.pixel_scale)


def forgiving(obs: Observation) -> Observation:
    """Return an observation whose noise includes the error of profiles, a share of the light."""
    # The light of a pixel is that of those around it: its own noise must not weigh it.
    around = [mean_of_nine(np.where(w > 0, i, 0.0)) for i, w in zip(obs.images, obs.weights)]
    light = np.maximum(around, 0.0)
    weights = obs.weights / (1 + obs.weights * (MISFIT * light) ** 2)
    return replace(obs, weights=weights.astype(obs.weights.dtype))


def mended(obs: Observation, sky: np.ndarray, noise: np.ndarray) -> Observation:
    """Return an observation without a sky ``[B]`` and with errors times factors ``[B]``."""
    if not sky.any() and (noise == 1).all():
        return obs
    images = obs.images - sky[:, None, None] * (obs.weights > 0)
    return replace(obs, images=images, weights=obs.weights / noise[:, None, None] ** 2)


def _blank(work: Work, scene: SceneTask, light: Light | None, failed: str | None = None) -> Record:
    """Return the record of a scene without any data, or that can't be fitted.

    It has no flux, and a flag that says which of both it is.  The light that an earlier fit found
    stays: without it neighbors would be fitted to these sources as well.
    """
    count, bands, size = len(scene.own.ids), work.field.bands, scene.window.size
    nothing = np.zeros((len(bands), size, size), np.float32)
    own, others = nothing, nothing
    if failed is not None and scene.before is not None and light is not None:
        (own,) = read_arrays_of(scene.before, "light")
        others = light.of(scene.window) - own
    bits = FLAGS["no_data" if failed is None else "not_converged"].value
    words = words_of(bits, bands)
    unknown = np.full(count, np.nan)
    arrays = {
        "light": own,
        "others": others,
        "deviation": np.full(len(bands), np.inf),
        "center_covariance": np.full((count, 2, 2), np.nan),
        "spectrum": np.full((count, len(bands)), np.nan),
        "p_star": unknown,
        "evidence": unknown,
        "lacks": np.zeros((0, 3)),
        "is_structured": np.array(False),
        "column/id": np.array(scene.own.ids),
        "column/x": scene.own.row_column[:, 1],
        "column/y": scene.own.row_column[:, 0],
        "column/model": np.full(count, "none"),
        "column/flags": np.full(count, words),
        "column/flag_bits": np.full(count, bits),
    }
    facts = {
        "name": scene.name,
        "window": list(scene.window),
        "ids": list(scene.own.ids),
        "converged": failed is None,
        "failed": failed,
        "iterations": 0,
        "chi2": float("nan"),
        "seconds": 0.0,
        "units": {},
        "descriptions": {n: "" for n in ("id", "x", "y", "model", "flags", "flag_bits")},
        "doubts": {},
        "notes": [],
        "noise_from_model": [],
        "psf_sigma": None,
        "down_weighted": 0,
        "psf_change": [0.0] * len(bands),
    }
    return Record(arrays, facts)


def _blend(work: Work, scene: SceneTask, obs: Observation, others: np.ndarray | None) -> Blend:
    each = [scene.own] if scene.halo is None else [scene.own, scene.halo]
    first = np.array(scene.window[:2])
    positions = Positions(
        tuple(name for one in each for name in one.ids),
        np.concatenate([one.row_column for one in each]) - first,
        np.concatenate([one.is_point for one in each]),
    )
    kind = work.settings.options.sky
    sky = no_sky(obs, kind) if kind in SKIES else None
    return prepare(obs, positions, work.settings, None if others is None else [others], sky)


def _lacks(scene: SceneTask, fitted: Fitted, parts: Sequence[Part]) -> np.ndarray:
    """Return row, column and significance of sources that a scene lacks near its own, ``[M, 3]``.

    None beside hidden sources, whose light goes on beyond what is masked.
    """
    own = fitted.rows
    places, gain = missing(fitted.obs, fitted.scene, rows=own, parts=parts, least=WORTH_A_FIT)
    apart = np.linalg.norm(places[:, None] - fitted.scene.center, axis=-1)
    mine = np.isin(apart.argmin(1), own) if len(places) else np.zeros(0, bool)
    places = places + np.array(scene.window[:2])
    masked = np.linalg.norm(places[:, None] - scene.hidden[:, :2], axis=-1)
    mine &= (masked > scene.hidden[:, 2] + BESIDE).all(1)
    return np.column_stack([places, np.sqrt(2 * gain)])[mine]


def _profile_record(
    scene: SceneTask, fitted: FittedScene, found: Weighed, lacks: np.ndarray, seconds: float
) -> Record:
    own = slice(len(scene.own.ids))
    arrays = {
        "light": fitted.convolved[0][own].sum(0),
        "is_structured": np.array(int(fitted.fit.num_iterations) >= ITERATIONS),
        "p_star": found.p_star,
        "evidence": found.needed,
        "lacks": lacks,
    }
    return Record(arrays, _facts(scene, fitted, seconds))


def _final_record(
    scene: SceneTask,
    result: Deblended,
    others,
    change: np.ndarray,
    seconds: float,
    is_structured: bool,
) -> Record:
    found = result.free_form
    first = np.array(scene.window[:2])
    table = catalog(result)
    columns = {f"column/{name}": _plain(table[name]) for name in table.colnames}
    for axis, name in ((1, "x"), (0, "y")):
        columns[f"column/{name}"] = columns[f"column/{name}"] + first[axis]
    arrays = {
        "light": found.convolved[0].sum(0),
        "others": others,
        "deviation": _deviation(result.observation.views[0].observation.weights),
        "center_covariance": result.photometry.center_covariance,
        "spectrum": found.flux,
        # What the scene is fitted again with.
        "row_column": scene.own.row_column,
        "is_point": scene.own.is_point,
        "sky": scene.sky,
        "noise": scene.noise,
        "is_structured": np.array(is_structured),
        **columns,
    }
    if result.kept is not None:
        arrays["kept"] = np.asarray(result.kept[0], np.float32)
    for number, (image, moved, corner) in enumerate(_boxes(found)):
        arrays[f"image/{number}"] = np.asarray(image / image.sum(), np.float32)
        arrays[f"corner/{number}"] = corner + first
        if found.gradient is not None and moved is not None:
            arrays[f"moved/{number}"] = np.asarray(moved, np.float32)
            arrays["gradient"] = found.gradient
    facts = _facts(scene, found, seconds) | {
        "units": {n: str(table[n].unit) for n in table.colnames if table[n].unit is not None},
        "descriptions": {n: table[n].info.description for n in table.colnames},
        # Noise, sky and positions are those of the field, which its survey has looked at.
        "doubts": doubts_of_fit(result),
        "notes": list(filter(None, [unexplained_words(_in_field(result, first))])),
        "converged": result.converged,
        "noise_from_model": list(result.noise_from_model),
        "psf_sigma": result.psf_sigma,
        "down_weighted": 0 if result.kept is None else int((result.kept[0] < 1).sum()),
        "psf_change": change.tolist(),
    }
    return Record(arrays, facts)


def _in_field(result: Deblended, first: np.ndarray) -> list[Unexplained]:
    """Return groups of pixels that no source explains, in pixels of the field."""
    row, column = map(float, first)
    return [one._replace(x=one.x + column, y=one.y + row) for one in unexplained(result)]


def _facts(scene: SceneTask, fitted: FittedScene, seconds: float) -> dict[str, Any]:
    return {
        "name": scene.name,
        "window": list(scene.window),
        "ids": list(scene.own.ids),
        "converged": bool(fitted.fit.converged),
        "iterations": int(fitted.fit.num_iterations),
        "chi2": float(fitted.chi2),
        "seconds": float(seconds),
    }


def _boxes(found: FittedScene) -> Iterator[tuple[np.ndarray, np.ndarray | None, np.ndarray]]:
    """Yield images, those of color gradients, and first pixels of the boxes of sources.

    In the order of the catalog; sources of one color have no gradient (None).
    """
    boxes = found.scene.morphologies(found.fit.values)
    images = [image for box in boxes for image in box.image]
    moved = [
        None if box.gradient is None else box.gradient.image[k]
        for box in boxes
        for k in range(len(box.image))
    ]
    corners = [corner for box in boxes for corner in box.corner]
    for slot in found.scene.order:
        own = moved[slot]
        yield (
            np.asarray(images[slot]),
            None if own is None else np.asarray(own),
            np.asarray(corners[slot]),
        )


def _deviation(weights: np.ndarray) -> np.ndarray:
    """Return the usual noise of a pixel in every band, ``[B]``; infinite where all are masked."""
    return np.array([np.median(w[w > 0]) ** -0.5 if (w > 0).any() else np.inf for w in weights])


def _plain(column) -> np.ndarray:
    values = np.asarray(getattr(column, "value", column))
    return values.astype(str) if values.dtype.kind == "O" else values


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out warnings about single scenes: the field as a whole has been checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def slots(scenes: Sequence[SceneTask]) -> list[tuple[int, int]]:
    """Return the numbers of stars and galaxies in each scene, halo included."""
    found = []
    for scene in scenes:
        each = [scene.own] if scene.halo is None else [scene.own, scene.halo]
        stars = sum(int(one.is_point.sum()) for one in each)
        found.append((stars, sum(len(one.ids) for one in each) - stars))
    return found
