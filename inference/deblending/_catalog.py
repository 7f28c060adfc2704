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
from scorepriors._surveys import magnitude_errors
from scorepriors.models.data._correlations import correlation_facts
from scorepriors.models.scene._exposures import exposures

from ._choice import cut_off, seen_beyond
from ._doubts import LEFT_OVER, MOVED, canceled_light, left_over
from ._flags import bits_where, words_of, write_flags
from ._motions import MOTION_TEXTS, motion_columns, sky_steps
from ._options import WIDE_BOX
from ._result import Deblended, FittedScene, chi2_spread
from ._seen import only_seen, total_seen
from ._units import units_of

#: Distance from the border, in pixels, within which a source's light reaches beyond the image.
EDGE = 8

#: Largest share of the flux beyond the border without a flag.
BEYOND = 0.01

#: Excess of a source's chi2, in standard deviations, above which it gets a flag.
RESIDUAL = 5.0

#: Share of a galaxy's light outside of its box above which it gets a flag.
LOST = 1 / 30

#: Share of a source's light on pixels that lost half of their weight above which it gets a flag.
DOWN_WEIGHTED = 0.1

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
        convention), shapes are second moments at the model's resolution, and columns
        ``profile_*`` are those of the parametric scene.  ``flux_*`` is the posterior mean of the
        flux with an error that knows everything uncertain, ``measured_flux_*`` what the
        likelihood alone says, which may be negative: see `Photometry`.  Fluxes, errors and
        magnitudes are NaN in bands in which the source has no data (flag ``no_data``).

    Raises
    ------
    InputError
        If a kind of sources adds a column that the catalog has already.
    """
    obs, scene = result.observation, only_seen(result.free_form, result.observation)
    unit, factor = obs.flux_unit
    found = result.photometry
    table = QTable()
    table["id"] = np.asarray(result.positions.ids)
    add_positions(table, result)
    magnitudes = obs.magnitudes(found.flux)
    scaled = found.scaled(factor)
    for b, band in enumerate(obs.bands):
        table[f"flux_{band}"] = scaled.flux[:, b] * unit
        table[f"flux_err_{band}"] = scaled.error[:, b] * unit
        if magnitudes is not None:
            table[f"mag_{band}"] = magnitudes[:, b] * u.mag
            table[f"mag_err_{band}"] = (
                magnitude_errors(scaled.flux[:, b], scaled.error[:, b]) * u.mag
            )
        table[f"measured_flux_{band}"] = scaled.measured[:, b] * unit
        table[f"measured_flux_err_{band}"] = scaled.measured_error[:, b] * unit
        fixed = np.where(found.seen[:, b], scene.flux_error[:, b], np.nan)
        table[f"fixed_shape_flux_err_{band}"] = fixed * factor[b] * unit
    for name, values in (("flux", scaled.total), ("measured_flux", scaled.measured_total)):
        table[f"{name}_total"], table[f"{name}_err_total"] = values * unit
    table["snr"] = scaled.snr
    for name, motion in motion_columns(result).items():
        table[name] = motion
    add_shapes(table, result)
    table["chi2"] = scene.source_chi2
    table["model"] = scene.models
    write_flags(table, *flags_of(result, scene))
    profiles = only_seen(result.parametric, obs)
    for b, band in enumerate(obs.bands):
        table[f"profile_flux_{band}"] = profiles.flux[:, b] * factor[b] * unit
    # Free forms know what moves between the parts, not how much is in each.
    parts = profiles.bulge_fraction
    for b, band in enumerate(obs.bands if parts is not None else ()):
        table[f"bulge_fraction_{band}"] = parts[:, b]
    # Columns of the kinds of sources; of a kind in both scenes, those of the result.
    own = {column.name: column for column in result.parametric.columns}
    for column in scene.columns:
        before = own.get(column.name, column)
        missing_here = np.isnan(column.values)
        own[column.name] = column._replace(
            values=np.where(missing_here, before.values, column.values)
        )
    for column in own.values():
        if column.name in table.colnames:
            raise InputError(
                f"a kind of sources adds the column {column.name!r}, which the catalog has already; "
                "give it another name in `columns`."
            )
        table[column.name] = column.values * (1 if column.unit is None else column.unit)
    for name in table.colnames:
        if table[name].info.description is None:  # flags have descriptions already
            text = own[name].text if name in own else description(name, obs.bands)
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
    known = correlation_facts(obs)
    if known is not None:
        table.meta["noise_correlation"] = known
    if seed is not None:
        table.meta["seed"] = seed
    return table


def flags_of(
    result: Deblended, scene: FittedScene | None = None
) -> tuple[np.ndarray, list[list[str]]]:
    """Return bits of the flags ``[N]`` of the sources, and names of the bands without data of each.

    Parameters
    ----------
    result
        Result of `deblend`.
    scene
        The result's scene without fluxes in bands without data (`only_seen`), if it is at hand.
    """
    obs = result.observation
    scene = only_seen(result.free_form, obs) if scene is None else scene
    missing = [np.array(obs.bands)[np.isnan(flux)].tolist() for flux in scene.flux]
    return bits_where(_tests(result)), missing


def flag_words(result: Deblended) -> list[str]:
    """Return the comma-separated flags of the sources, as in the column ``flags``."""
    bits, missing = flags_of(result)
    return [words_of(one, named) for one, named in zip(bits, missing, strict=True)]


def add_positions(table: QTable, result: Deblended) -> None:
    """Add positions in pixels and on the sky, with errors."""
    wcs, covariance = result.observation.wcs, result.photometry.center_covariance
    row, column = result.center.T
    table["x"], table["y"] = column, row
    spread = np.sqrt(np.einsum("kii->ki", covariance))
    table["x_err"], table["y_err"] = spread[:, 1] * u.pix, spread[:, 0] * u.pix
    if wcs is not None:
        for name, values in sky_columns(row, column, covariance, wcs).items():
            table[name] = values


def sky_columns(
    row: np.ndarray, column: np.ndarray, covariance: np.ndarray, wcs
) -> dict[str, u.Quantity]:
    """Return positions on the sky and their errors as columns of a catalog.

    Parameters
    ----------
    row, column
        Positions in pixels, ``[N]``.
    covariance
        Covariance of (row, column), ``[N, 2, 2]``.
    wcs
        WCS of these pixels.
    """
    sky = wcs.pixel_to_world(column, row).icrs
    turn = sky_steps(row, column, wcs)
    on_sky = np.sqrt(np.einsum("kis,kij,kjs->ks", turn, covariance, turn)).T * u.arcsec
    return {
        "ra": sky.ra.to(u.deg),
        "dec": sky.dec.to(u.deg),
        "ra_err": on_sky[0],
        "dec_err": on_sky[1],
    }


def add_shapes(table: QTable, result: Deblended) -> None:
    """Add size and ellipticities of the images, with errors."""
    size, e1, e2 = shapes(result.free_form.morphology)
    error = result.photometry.shape_error.T
    table["size"], table["size_err"] = size * u.pix, error[0] * u.pix
    scale = result.observation.pixel_scale
    if scale is not None:
        table["size_arcsec"] = size * scale * u.arcsec
        table["size_arcsec_err"] = error[0] * scale * u.arcsec
    table["e1"], table["e1_err"], table["e2"], table["e2_err"] = e1, error[1], e2, error[2]
    modulus = np.hypot(e1, e2)
    table["ellipticity"] = modulus
    along = np.hypot(e1 * error[1], e2 * error[2])
    # A round image has no direction along which to propagate: the larger of both errors.
    round_one = np.maximum(error[1], error[2])
    table["ellipticity_err"] = np.divide(along, modulus, out=round_one, where=modulus > 0)


def description(name: str, bands) -> str:
    """Return the description of a column of the catalog."""
    if name in _DESCRIPTIONS:
        return _DESCRIPTIONS[name]
    # The name of a band may contain an underscore, so it is not found by splitting.
    if name.endswith("_err") and name[:-4] in _DESCRIPTIONS:
        return f"standard deviation: {_DESCRIPTIONS[name[:-4]]}"
    band = max((b for b in (*bands, "total") if name.endswith(f"_{b}")), key=len)
    kind = _BAND_DESCRIPTIONS[name[: -len(band) - 1]]
    return f"{kind}, {f'band {band}' if band in bands else 'all bands with data'}"


_BAND_DESCRIPTIONS = {
    "flux": "posterior mean of the flux",
    "flux_err": "its standard deviation: shape, position, brightness, neighbors, model",
    "mag": "AB magnitude of the flux",
    "mag_err": "standard deviation of the magnitude, to first order",
    "measured_flux": "flux from the likelihood alone, which may be negative; for stacks and detection",
    "measured_flux_err": "its standard deviation: shape, position, neighbors, model",
    "fixed_shape_flux_err": "error of the flux if all shapes were known",
    "profile_flux": "flux of the mode of the parametric scene",
    "bulge_fraction": "share of the bulge in the flux of the parametric scene, of two spectra",
}

_DESCRIPTIONS = {
    "id": "name in the input catalog",
    "ra": "ICRS right ascension",
    "dec": "ICRS declination",
    "ra_err": "standard deviation towards the east",
    "dec_err": "standard deviation towards the north",
    "snr": "measured flux of all bands with data over its error",
    "x": "column, 0-based pixel",
    "y": "row, 0-based pixel",
    "size": "second-moment radius at the model's resolution",
    "size_arcsec": "the same on the sky",
    "e1": "(Ixx - Iyy) / (Ixx + Iyy), free-form shape at the model's resolution",
    "e2": "2 Ixy / (Ixx + Iyy), free-form shape at the model's resolution",
    "ellipticity": "modulus of (e1, e2)",
    **MOTION_TEXTS,
    "chi2": "mean squared residual over noise where the source is seen",
    "model": "point, profile (a bulge and disk, as in the parametric scene) or free-form",
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
    unit, light = obs.flux_unit[1], found.light
    flux = total_seen(found.flux * unit)
    other = np.where(seen, result.parametric.flux * unit, 0.0).sum(1)
    spread = chi2_spread(light, weights)
    moved = np.linalg.norm(center - result.positions.row_column, axis=1) > MOVED
    of_first = units_of(found.scene.exposures)[0][:, None, None]
    undone, whole = canceled_light(light)
    residual = found.source_chi2 > 1 + RESIDUAL * spread
    everywhere = np.ones(len(center), bool)
    return {
        "edge": near | beyond,
        "masked": _share_on(light, [w <= 0 for w in weights]) > 0.2,
        "faint": result.photometry.scaled(obs.flux_unit[1]).snr < 5,
        "negative": flux <= 0,
        "moved": moved,
        "outshone": _outshone(light[0], center, weights[0] / of_first**2),
        "residual": residual,
        "disputed": np.abs(other - flux) > DISPUTED * np.abs(flux),
        "canceled": undone > CANCELED * whole,
        "point": result.is_point,
        "not_converged": everywhere & (not result.converged),
        "no_data": ~seen.all(1),
        "cut_off": _cut_off(result) > LOST,
        "misfit": residual & (left_over(found, obs)[0] > LEFT_OVER),
        "down_weighted": everywhere & (_down_weighted(result) > DOWN_WEIGHTED),
    }


def _cut_off(result: Deblended) -> np.ndarray:
    """Return the share of the light of each galaxy that is seen outside of its box, ``[N]``."""
    scene, values = result.parametric.scene, result.parametric.fit.values
    out = np.zeros(len(result.kinds))
    for name in set(result.kinds):
        box = result.scene[name].at.box
        whole, mine = max(WIDE_BOX, 2 * box), result.kinds == name
        if not (cut_off(scene, values, box, whole)[mine] > LOST).any():
            continue
        wide = exposures(result.observation, boxes=(whole,), psf_sigma=result.psf_sigma)[0]
        share = seen_beyond(scene, values, result.parametric, box, (wide, whole))
        out[mine] = share[mine]
    return out


def _outshone(images: np.ndarray, center: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return whether a source has less than half of the weighted light at its own pixel."""
    height, width = images.shape[-2:]
    out = np.zeros(len(center), bool)
    for k, place in enumerate(center):
        row, column = (int(np.clip(round(c), 0, n - 1)) for c, n in zip(place, (height, width)))
        light = np.maximum(images[:, :, row, column], 0.0) @ weights[:, row, column]
        out[k] = light.sum() > 0 and light[k] < 0.5 * light.sum()
    return out


def _down_weighted(result: Deblended) -> np.ndarray | float:
    """Return the share of the light of each source on pixels that lost their weight, ``[N]``."""
    if result.kept is None:
        return 0.0
    return _share_on(result.free_form.light, [one < 0.5 for one in result.kept])


def _share_on(images: Sequence[np.ndarray], where: Sequence[np.ndarray]) -> np.ndarray:
    """Return the share of the light of each source on some of the pixels, ``[N]``."""
    lost, light = 0.0, 0.0
    for image, chosen in zip(images, where, strict=True):
        positive = np.maximum(image, 0.0)
        lost = lost + (positive * chosen).sum((1, 2, 3), dtype=float)
        light = light + positive.sum((1, 2, 3), dtype=float)
    return lost / np.maximum(light, 1e-30)
