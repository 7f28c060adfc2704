"""Forced photometry of a whole field: scene by scene, each with the neighbors whose light it holds."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from astropy.wcs import NoConvergence

from scorepriors._errors import InputError
from scorepriors._progress import Progress, reporting
from scorepriors.inference.fields._result import MANY
from scorepriors.models.data._field import Field
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import said_before

from ._checked import Checked, tell_doubts
from ._forced import Forced, measured
from ._shear import slopes_of_errors
from ._sources import Boxes, Fixed


def forced_field(
    result: Any,
    obs: Observation | Field,
    sky: str = "none",
    variances: str = "auto",
    rescale: bool = False,
    progress: Progress = None,
) -> Forced:
    """Measure fluxes of the sources of a field in another image.

    Parameters
    ----------
    result
        The finished field, a `FieldResult`.
    obs
        Image, of which the windows of the scenes are read one after the other; its PSF is that at
        each.
    sky
        Sky to fit in each window; see `forced_photometry`.
    variances
        Variances of each window; see `forced_photometry`.
    rescale
        Whether the errors of windows whose empty pixels deny them are rescaled.
    progress
        See `scorepriors._progress`.
    """
    image = obs if isinstance(obs, Field) else Field.of(obs)
    wcs = image.wcs
    for one, which in ((result.field.wcs, "the field"), (wcs, image.name or "the image")):
        if one is None:
            raise InputError(f"{which} has no WCS: nobody knows where it lies on the sky.")
    catalog = result.catalog
    places = np.stack([np.asarray(catalog["y"], float), np.asarray(catalog["x"], float)], 1)
    known = result.shapes()
    shapes = [known.get(str(one)) for one in catalog["id"]]
    spans = _Spans.of(shapes)
    count, bands = len(catalog), len(image.bands)
    flux, noise, of_shapes, alone = np.full((4, count, bands), np.nan)
    share, chi2 = np.zeros((count, bands)), np.full(count, np.nan)
    model = np.zeros((bands, *image.shape), np.float32)
    background = None if sky == "none" else np.zeros_like(model)
    mended: set[str] = set()
    windows: list[Checked] = []
    with reporting(progress, "measuring scenes", len(result.scenes)) as report:
        for number, scene in enumerate(result.scenes):
            # What holds for all windows is said of the first, and what does not in numbers, below.
            with said_before() if windows else nullcontext():
                found = _scene(result, image, scene, places, shapes, spans, sky, variances, rescale)
            report(number + 1, len(result.scenes), "")
            if found is None:
                continue
            rows, own, one = found
            windows.append(one.checked)
            mended |= set(one.noise_from_model)
            solved, corner = one.solved, one.view.observation.corner
            flux[rows], share[rows], alone[rows] = (
                a[own] for a in (solved.flux, solved.share, solved.alone)
            )
            noise[rows] = np.sqrt(np.einsum("bkk->kb", solved.covariance))[own]
            of_shapes[rows] = np.sqrt(np.einsum("bkk->kb", one.of_shapes))[own]
            chi2[rows] = one.chi2[own]
            light = np.einsum("kb,kbyx->byx", np.nan_to_num(solved.flux[own]), solved.unit[own])
            _add(model, light, corner)
            if background is not None and one.background is not None:
                _set(background, one.background, corner)
    if not windows:
        raise InputError(f"{image.name or 'the image'} does not overlap the field on the sky.")
    if background is not None and not any(one.kind for one in windows):
        background = None
    doubts = _doubts(windows)
    tell_doubts([*(_sky_fitted(windows) if sky == "auto" else ()), *doubts.values()])
    world = result.field.wcs.pixel_to_world(places[:, 1], places[:, 0])
    column, row = wcs.world_to_pixel(world)  # type: ignore[union-attr]
    return Forced(
        ids=tuple(str(one) for one in catalog["id"]),
        observation=image.whole(),
        bands=tuple(image.bands),
        unit=image.unit,
        zero_point=image.zero_point,
        pixel=np.stack([row, column], 1),
        sky=np.stack([world.icrs.ra.deg, world.icrs.dec.deg], 1),
        flux=flux,
        noise_error=noise,
        shape_error=of_shapes,
        alone_error=alone,
        share=share,
        chi2=chi2,
        model=model,
        shapes="catalog",
        background=background,
        noise_from_model=tuple(band for band in image.bands if band in mended),
        doubts=doubts,
    )


def _doubts(windows: list[Checked]) -> dict[str, str]:
    """Return sentences on noise and sky by code, where `MANY` windows say so, that of the first."""
    out = {}
    for code in ("noise", "sky", "gradient"):
        said = [one.doubts[code] for one in windows if code in one.doubts]
        if said and len(said) >= MANY * len(windows):
            out[code] = (
                f"in {len(said)} of {len(windows)} windows, of which in the first: {said[0]}"
            )
    return out


def _sky_fitted(windows: list[Checked]) -> list[str]:
    fitted = sum(one.kind is not None for one in windows)
    if not fitted:
        return []
    return [
        f"a sky is left in {fitted} of {len(windows)} windows, and is fitted there with the sources; "
        "sky='none' (--sky none in the shell) leaves it in."
    ]


class _Spans(NamedTuple):
    """First pixels of the boxes of sources and those after the last, ``[N, 2]``, where known ``[N]``."""

    first: np.ndarray
    last: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, shapes) -> "_Spans":
        known = np.array([shape is not None for shape in shapes], bool)
        first = np.array([(0, 0) if shape is None else shape[1] for shape in shapes]).reshape(-1, 2)
        side = np.array([0 if shape is None else len(shape[0]) for shape in shapes], int)
        return cls(first, first + side[:, None], known)


def _scene(result, image: Field, scene, places, shapes, spans: _Spans, sky, variances, rescale):
    """Measure one scene.

    Returns
    -------
    rows
        Rows of its own sources in the catalog.
    own
        Their places among the sources that were measured, which are those of neighbors too.
    measured
        What `measured` returns.

    None where it has no source with a shape, or the image no data.
    """
    first = np.array([scene["row"], scene["column"]], int)
    size = int(scene["size"])
    window = result.field.window(*first, size, size)
    mine = np.asarray(result.catalog["scene"]) == scene["scene"]
    # The box of a source reaches into the window, or the source is the scene's own.
    reaches = ((spans.last > first) & (spans.first < first + size)).all(1)
    near = spans.known & (mine | reaches)
    rows = np.flatnonzero(near)
    if not (near & mine).any():
        return None
    part = _window_of(image, window)
    if part is None or not part.num_pixels:
        return None
    boxes = Boxes([shapes[k][0] for k in rows], np.stack([shapes[k][1] for k in rows]) - first)
    about = result.catalog[rows]
    fixed = Fixed(
        ids=tuple(str(one) for one in about["id"]),
        reference=window,
        boxes=boxes,
        center=places[rows] - first,
        psf_sigma=shapes[rows[0]][2],
        slopes=slopes_of_errors(boxes, about),
    )
    own = np.flatnonzero(mine[rows])
    # The window of a bright galaxy's halo must not end a field.
    how = {"sky": sky, "variances": variances, "rescale": rescale, "refuse": False}
    return rows[own], own, measured(fixed, part, **how)


def _window_of(image: Field, window: Observation) -> Observation | None:
    """Return the part of an image that sees a window; None if there is none."""
    rows, columns = (np.linspace(0, n - 1, 5) for n in window.shape)
    row, column = (a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
    try:
        x, y = image.wcs.world_to_pixel(window.wcs.pixel_to_world(column, row))  # type: ignore[union-attr]
    except NoConvergence:
        return None
    seen = np.stack([y, x], 1)
    if not np.isfinite(seen).all():
        return None
    margin = image.psf_size // 2
    first = np.maximum(np.floor(seen.min(0)).astype(int) - margin, 0)
    last = np.minimum(np.ceil(seen.max(0)).astype(int) + 1 + margin, image.shape)
    if (first >= last).any():
        return None
    return image.window(*first, *(last - first))


def _add(model: np.ndarray, light: np.ndarray, corner) -> None:
    model[_place(light, corner)] += light


def _set(background: np.ndarray, level: np.ndarray, corner) -> None:
    """Where windows overlap, the sky is that of the last one."""
    background[_place(level, corner)] = level


def _place(image: np.ndarray, corner) -> tuple[slice, ...]:
    rows, columns = (slice(c, c + n) for c, n in zip(corner, image.shape[1:], strict=True))
    return slice(None), rows, columns
