"""Catalogs of fitted scenes: fluxes with units, positions, shapes, flags."""

from collections.abc import Sequence

import jax
import numpy as np
import numpyro
from astropy import units as u
from astropy.table import QTable

from scorepriors import __version__
from scorepriors._errors import InputError
from scorepriors._moments import shapes

from ._doubts import LEFT_OVER, MOVED, canceled_light, left_over
from ._flags import bits_where, write_flags
from ._result import Deblended, FittedScene
from ._seen import only_seen, total_seen

#: Distance from the border, in pixels, within which a source's light reaches beyond the image.
EDGE = 8

#: Largest share of the flux beyond the border without a flag.
BEYOND = 0.01

#: Excess of a source's chi2, in standard deviations, above which it gets a flag.
RESIDUAL = 5.0

#: Relative difference of the two scenes' fluxes above which they depend on the model.
DISPUTED = 0.3

#: Share of a source canceled by negative light above which both get a flag.
CANCELED = 0.1


def catalog(result: Deblended, *, seed: int | None = None) -> QTable:
    """Return a table of the deblended sources, in the order of the input positions.

    Parameters
    ----------
    result
        Result of `deblend`.
    seed
        Seed recorded in the metadata, if given.

    Returns
    -------
    astropy.table.QTable
        Catalog, to be written to and read from ECSV: ``x``, ``y`` are 0-based (astropy's
        convention), ``flux_err`` is for fixed shapes, shapes are second moments at the model's
        resolution, and columns ``profile_*`` are those of the parametric scene.  Fluxes, errors and
        magnitudes are NaN in bands in which the source has no data (flag ``no_data``).

    Raises
    ------
    InputError
        If a kind of sources adds a column that the catalog has already.
    """
    obs, scene = result.observation, only_seen(result.free_form, result.observation)
    unit, factor = obs.flux_unit
    row, column = result.center.T
    table = QTable()
    table["id"] = np.asarray(result.positions.ids)
    table["x"] = column
    table["y"] = row
    if obs.wcs is not None:
        sky = obs.wcs.pixel_to_world(column, row).icrs
        table["ra"], table["dec"] = sky.ra.to(u.deg), sky.dec.to(u.deg)
    magnitudes = obs.magnitudes(scene.flux)
    for b, band in enumerate(obs.bands):
        table[f"flux_{band}"] = scene.flux[:, b] * factor[b] * unit
        table[f"flux_err_{band}"] = scene.flux_error[:, b] * factor[b] * unit
        if magnitudes is not None:
            table[f"mag_{band}"] = magnitudes[:, b] * u.mag
    size, e1, e2 = shapes(scene.morphology)
    table["size"] = size * u.pix
    if obs.pixel_scale is not None:
        table["size_arcsec"] = size * obs.pixel_scale * u.arcsec
    table["e1"], table["e2"] = e1, e2
    table["ellipticity"] = np.hypot(e1, e2)
    table["chi2"] = scene.source_chi2
    missing = [np.array(obs.bands)[np.isnan(flux)].tolist() for flux in scene.flux]
    write_flags(table, bits_where(_tests(result)), missing)
    profiles = only_seen(result.parametric, obs)
    for b, band in enumerate(obs.bands):
        table[f"profile_flux_{band}"] = profiles.flux[:, b] * factor[b] * unit
    # Columns of the kinds of sources; of a kind in both scenes, those of the result.
    own = {column.name: column for column in (*result.parametric.columns, *scene.columns)}
    for column in own.values():
        if column.name in table.colnames:
            raise InputError(
                f"a kind of sources adds the column {column.name!r}, which the catalog has already; "
                "give it another name in `columns`."
            )
        table[column.name] = column.values * (1 if column.unit is None else column.unit)
    for name in table.colnames:
        if table[name].info.description is None:  # flags have descriptions already
            text = own[name].text if name in own else _description(name, obs.bands)
            table[name].info.description = text
    table.meta.update(
        prior=result.prior_name,
        sigma0=result.sigma0,
        chi2=scene.chi2,
        converged=result.converged,
        scorepriors=__version__,
        jax=jax.__version__,
        numpyro=numpyro.__version__,
    )
    if seed is not None:
        table.meta["seed"] = seed
    return table


def _description(name: str, bands) -> str:
    if name in _DESCRIPTIONS:
        return _DESCRIPTIONS[name]
    # The name of a band may contain an underscore, so it is not found by splitting.
    band = max((b for b in bands if name.endswith(f"_{b}")), key=len)
    return f"{_BAND_DESCRIPTIONS[name[: -len(band) - 1]]}, band {band}"


_BAND_DESCRIPTIONS = {
    "flux": "flux under the learned prior",
    "flux_err": "standard error of the flux, shapes held fixed",
    "mag": "AB magnitude",
    "profile_flux": "flux in the parametric scene",
}

_DESCRIPTIONS = {
    "id": "name in the input catalog",
    "ra": "ICRS right ascension",
    "dec": "ICRS declination",
    "x": "column, 0-based pixel",
    "y": "row, 0-based pixel",
    "size": "second-moment radius at the model's resolution",
    "size_arcsec": "the same on the sky",
    "e1": "(Ixx - Iyy) / (Ixx + Iyy), free-form shape at the model's resolution",
    "e2": "2 Ixy / (Ixx + Iyy), free-form shape at the model's resolution",
    "ellipticity": "modulus of (e1, e2)",
    "chi2": "mean squared residual over noise where the source is seen",
}


def _tests(result: Deblended) -> dict[str, np.ndarray]:
    """Return for each flag whether it holds for the sources, ``[N]``."""
    obs, found = result.observation, only_seen(result.free_form, result.observation)
    center, size = result.center, np.array(obs.shape)
    near = np.minimum(center, size - 1 - center).min(1) < EDGE
    # Shapes that are inside the image have a flux of one there.
    beyond = found.morphology.sum((1, 2)) < 1 - BEYOND
    weights = [view.observation.weights for view in obs.views]
    seen = ~np.isnan(found.flux)
    # Without data in any band there is no flux, and nothing is said about it.
    flux, other = total_seen(found.flux), np.where(seen, result.parametric.flux, 0.0).sum(1)
    spread = _chi2_spread(found.convolved, weights)
    moved = np.linalg.norm(center - result.positions.row_column, axis=1) > MOVED
    undone, light = canceled_light(found.convolved)
    residual = found.source_chi2 > 1 + RESIDUAL * spread
    everywhere = np.ones(len(center), bool)
    return {
        "edge": near | beyond,
        "masked": _masked_share(found.convolved, weights) > 0.2,
        "faint": _signal_to_noise(found) < 5,
        "negative": flux <= 0,
        "moved": moved,
        "outshone": _outshone(found.convolved[0], center, weights[0]),
        "residual": residual,
        "disputed": np.abs(other - flux) > DISPUTED * np.abs(flux),
        "canceled": undone > CANCELED * light,
        "point": result.is_point,
        "not_converged": everywhere & (not result.converged),
        "no_data": ~seen.all(1),
        "misfit": residual & (left_over(found, obs)[0] > LEFT_OVER),
    }


def _signal_to_noise(scene: FittedScene) -> np.ndarray:
    error = np.where(scene.flux_error > 0, scene.flux_error, np.inf)
    return np.sqrt(np.nansum((scene.flux / error) ** 2, axis=1))


def _outshone(images: np.ndarray, center: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return whether a source has less than half of the weighted light at its own pixel."""
    height, width = images.shape[-2:]
    out = np.zeros(len(center), bool)
    for k, place in enumerate(center):
        row, column = (int(np.clip(round(c), 0, n - 1)) for c, n in zip(place, (height, width)))
        light = np.maximum(images[:, :, row, column], 0.0) @ weights[:, row, column]
        out[k] = light.sum() > 0 and light[k] < 0.5 * light.sum()
    return out


def _chi2_spread(images: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> np.ndarray:
    """Return the standard deviation of each source's chi2 for pure noise, ``[N]``."""
    total, squares = 0.0, 0.0
    for image, weight in zip(images, weights, strict=True):
        share = np.maximum(image, 0.0) * (weight > 0)
        total = total + share.sum((1, 2, 3))
        squares = squares + (share**2).sum((1, 2, 3))
    return np.sqrt(2 * squares) / np.maximum(total, 1e-30)


def _masked_share(images: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> np.ndarray:
    """Return the share of the light of each source on masked pixels, ``[N]``."""
    lost, light = 0.0, 0.0
    for image, weight in zip(images, weights, strict=True):
        positive = np.maximum(image, 0.0)
        lost = lost + (positive * (weight <= 0)).sum((1, 2, 3), dtype=float)
        light = light + positive.sum((1, 2, 3), dtype=float)
    return lost / np.maximum(light, 1e-30)
