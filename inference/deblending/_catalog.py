"""From a fitted scene to a table: fluxes with units, positions, shapes, flags."""

import jax
import numpy as np
import numpyro
from astropy import units as u
from astropy.table import QTable

from scorepriors import __version__
from scorepriors._moments import shapes

from ._scenes import Deblended, Scene

#: Closer to the border than this, in pixels, the light of a source leaves the image.
EDGE = 8

#: A larger share of the flux than this beyond the border is worth a flag.
BEYOND = 0.01

#: So many standard deviations too high is the chi2 of a source that is not explained.
RESIDUAL = 5.0

#: Fluxes of the two scenes that differ by more than this share depend on what is assumed.
DISPUTED = 0.3

#: Where negative light takes away more than this share of a source, neither is believed.
CANCELED = 0.1


def catalog(result: Deblended, *, seed: int | None = None) -> QTable:
    """Table of the deblended sources, in the order of the input positions.

    Parameters
    ----------
    result
        From `deblend`.
    seed
        Recorded in the metadata if given.

    Returns
    -------
    astropy.table.QTable
        ``x``, ``y`` are 0-based (astropy's convention), ``flux_err`` holds the shapes
        fixed, shapes are second moments at the model's resolution, and columns
        ``profile_*`` are those of the parametric scene.  Writes to and reads from ECSV.
    """
    obs, scene = result.observation, result.free_form
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
    table["flags"] = flags(result)
    for b, band in enumerate(obs.bands):
        table[f"profile_flux_{band}"] = result.parametric.flux[:, b] * factor[b] * unit
    if result.profile:
        shape = result.profile
        table["profile_radius"] = (np.exp(shape["log_radius"]) + 0.05) * u.pix
        table["profile_bulge_fraction"] = 1 / (1 + np.exp(-shape["bulge_logit"]))
        table["profile_e1"], table["profile_e2"] = shape["ellipticity"].T
    for name in table.colnames:
        table[name].info.description = _description(name, obs.bands)
    table.meta.update(
        prior=result.prior_name,
        sigma0=float(result.prior.sigma),
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
    # A band may hold an underscore itself, so its name is not split off.
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
    "flags": "comma-separated words, or ok",
    "chi2": "mean squared residual over noise where the source is seen",
    "profile_radius": "half-light radius of the disk, parametric scene",
    "profile_bulge_fraction": "share of the bulge in the flux, parametric scene",
    "profile_e1": "ellipticity of the disk, parametric scene",
    "profile_e2": "ellipticity of the disk, parametric scene",
}


def flags(result: Deblended) -> list[str]:
    """Comma-separated words per source; `ok` if there is none.

    (Not an empty string: ECSV files read those back as missing.)

    edge: within 8 px of the border, or light of it lies beyond.  masked: a fifth of its light on masked pixels.
    faint: total signal to noise below 5.  negative: no positive flux.  moved: more than
    1 px from its catalog position.  outshone: at its own position most of the light is
    that of others, whose shapes may have taken some of its own.  residual: where it is
    seen the scene does not explain the data (chi2 too high by five standard deviations).
    disputed: as a bulge and a disk it would have another flux by three tenths and more.
    canceled: negative light of neighbors takes away a tenth of its own.
    point: modeled as a star.  not_converged.
    """
    obs, scene = result.observation, result.free_form
    height, width = obs.shape
    moved = np.linalg.norm(result.center - result.positions.row_column, axis=1) > 1
    signal = _signal_to_noise(scene)
    lost = np.array([_masked_share(image, obs.weights) for image in scene.convolved])
    # Shapes have a flux of one where the image holds all of them.
    beyond = scene.morphology.sum((1, 2)) < 1 - BEYOND
    outshone = _outshone(scene, result.center, obs.weights)
    spread = _chi2_spread(scene.convolved, obs.weights)
    unexplained = scene.source_chi2 > 1 + RESIDUAL * spread
    flux, other = scene.flux.sum(1), result.parametric.flux.sum(1)
    disputed = np.abs(other - flux) > DISPUTED * np.abs(flux)
    canceled = _canceled_share(scene.convolved) > CANCELED
    words = []
    for k, (row, column) in enumerate(result.center):
        near = min(row, column, height - 1 - row, width - 1 - column) < EDGE
        tests = {
            "edge": near or beyond[k],
            "masked": lost[k] > 0.2,
            "faint": signal[k] < 5,
            "negative": scene.flux[k].sum() <= 0,
            "moved": moved[k],
            "outshone": outshone[k],
            "residual": unexplained[k],
            "disputed": disputed[k],
            "canceled": canceled[k],
            "point": bool(result.positions.is_point[k]),
            "not_converged": not result.converged,
        }
        words.append(",".join(name for name, true in tests.items() if true) or "ok")
    return words


def _signal_to_noise(scene: Scene) -> np.ndarray:
    error = np.where(scene.flux_error > 0, scene.flux_error, np.inf)
    return np.sqrt(np.sum((scene.flux / error) ** 2, axis=1))


def _outshone(scene: Scene, center: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Whether at a source's own pixel its light, weighted over the bands, is less than half."""
    height, width = scene.convolved.shape[-2:]
    out = np.zeros(len(center), bool)
    for k, place in enumerate(center):
        row, column = (int(np.clip(round(c), 0, n - 1)) for c, n in zip(place, (height, width)))
        light = np.maximum(scene.convolved[:, :, row, column], 0.0) @ weights[:, row, column]
        out[k] = light.sum() > 0 and light[k] < 0.5 * light.sum()
    return out


def _canceled_share(images: np.ndarray) -> np.ndarray:
    """Share of the light of each source ``[K, B, H, W]`` that negative light of others undoes.

    Where a model lacks the arms of a bright galaxy, two sources in one place, one far too
    bright and one far below zero, can make up for them.
    """
    negative = np.minimum(images, 0.0)
    others = negative.sum(0) - negative
    light = np.maximum(images, 0.0)
    undone = np.minimum(light, -others).sum((1, 2, 3), dtype=float)
    return undone / np.maximum(light.sum((1, 2, 3), dtype=float), 1e-30)


def _chi2_spread(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Standard deviation of each source's chi2 (`footprint_chi2`) for pure noise."""
    share = np.maximum(images, 0.0) * (weights > 0)
    total = np.maximum(share.sum((1, 2, 3)), 1e-30)
    return np.sqrt(2 * (share**2).sum((1, 2, 3))) / total


def _masked_share(image: np.ndarray, weights: np.ndarray) -> float:
    light = np.maximum(image, 0)
    total = light.sum()
    return float(light[weights <= 0].sum() / total) if total > 0 else 0.0
