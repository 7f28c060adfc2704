"""Fluxes, shapes and images with errors from draws, and correlations of fluxes."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import xarray
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors._moments import centroids, shapes
from scorepriors._surveys import magnitude_errors
from scorepriors.inference.sampling._diagnostics import said
from scorepriors.inference.sampling._rhat import rank_rhat
from scorepriors.inference.sampling._tree import effective_sizes, group
from scorepriors.models.rendering._placing import overlap
from scorepriors.models.sources._kinds import group_from
from scorepriors.models.sources._moving import MovingStar
from scorepriors.models.sources._placement import Placement

from ._doubts import doubts_of_draws
from ._hdus import covariance_hdu, fits_text, image_header, source_hdu, source_names
from ._motions import MOTION_TEXTS, columns_of_ways
from ._seen import has_data, total_seen

#: Percentiles in tables: the median, and those of one standard deviation of a Gaussian.
_PERCENTILES = 16, 50, 84

#: Largest number of draws, evenly chosen, on which shapes are measured: medians and widths are
#: then accurate to a few per cent.
SHAPE_DRAWS = 500


class Draws(NamedTuple):
    """Images of one source at the model's resolution.

    Attributes
    ----------
    image
        Images ``[N, n, n]``, one per draw, chain after chain.
    corner
        First pixel (row, column) of the box in the image.
    spectrum
        Amplitudes ``[N, B]`` by which `image` is multiplied.
    moved, gradient
        Of sources of two parts images ``[N, n, n]`` of their color gradients, and their amplitudes
        ``[N, B]``; None for others.
    image_in
        Of sources that move a function from the number of an exposure to the images ``[N, n, n]`` there;
        None for others.
    """

    image: np.ndarray
    corner: np.ndarray
    spectrum: np.ndarray
    moved: np.ndarray | None = None
    gradient: np.ndarray | None = None
    image_in: Callable[[int], np.ndarray] | None = None

    def in_bands(self, picks: np.ndarray) -> np.ndarray:
        """Return some of the draws in every band, ``[M, B, n, n]``."""
        cubes = self.spectrum[picks][:, :, None, None] * self.image[picks][:, None]
        if self.moved is not None:
            gradient = np.asarray(self.gradient)[picks]
            cubes = cubes + gradient[:, :, None, None] * self.moved[picks][:, None]
        return cubes

    def mean(self, exposure: int | None = None) -> np.ndarray:
        """Return the mean image in every band, ``[B, n, n]``, or where it is in one of the exposures."""
        image, count = self.image, len(self.image)
        if self.image_in is not None and exposure is not None:
            image = self.image_in(exposure)
        mean = np.tensordot(self.spectrum.astype(float), image.astype(float), (0, 0)) / count
        if self.moved is not None:
            gradient, moved = np.asarray(self.gradient, float), self.moved.astype(float)
            mean += np.tensordot(gradient, moved, (0, 0)) / count
        return mean

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation in every band, ``[B, n, n]``."""
        image, spectrum = self.image.astype(float), self.spectrum.astype(float)
        count, mean = len(image), self.mean()
        square = np.tensordot(spectrum**2, image**2, (0, 0)) / count
        if self.moved is not None:
            moved, gradient = self.moved.astype(float), np.asarray(self.gradient, float)
            square += np.tensordot(gradient**2, moved**2, (0, 0)) / count
            square += 2 * np.tensordot(spectrum * gradient, image * moved, (0, 0)) / count
        variance = np.maximum(square - mean**2, 0.0) * count / max(count - 1, 1)
        return mean, np.sqrt(variance)


def source_draws(tree: Any, phase: float | None = None) -> Iterator[Draws]:
    """Yield images and spectra of every source, in the order of the catalog.

    Parameters
    ----------
    tree
        Result of `sample_deblended`.
    phase
        Time of the images of stars that move, as in `MovingStar.image_at_phase`; the middle of the times if
        not given.
    """
    posterior, constant = scene_groups(tree)
    every = [str(i) for i in posterior["source"].values]
    spectrum = _stacked(posterior["spectrum"])
    where = {
        identity: (facts, row)
        for facts in json.loads(tree.attrs["scene"])
        for row, identity in enumerate(group_ids(posterior, facts["name"]))
    }
    for k, identity in enumerate(every):
        facts, row = where[identity]
        values = group_values(posterior, facts["name"], row)
        count = len(spectrum)
        # One source per draw, all at the same place.
        center = np.asarray(constant["center"].values[k], np.float32)
        corner = np.asarray(constant["corner"].values[k])
        at = Placement(
            np.broadcast_to(center, (count, 2)),
            np.broadcast_to(corner, (count, 2)),
            np.zeros(count, int),
            int(facts["box"]),
        )
        one = group_from(_of_one(facts, row), at)
        if phase is not None and isinstance(one, MovingStar):
            # One box for all draws, about their mean place.
            steps = np.round(phase * values["way"].mean(0)).astype(int)
            image = np.asarray(one.image_at_phase(values, phase, steps, np))
            yield Draws(image, corner + steps, spectrum[:, k])
            continue
        image, parts = np.asarray(one.image(values, np)), one.gradient(values, np)
        if parts is None:
            moving = _images_of(one, values) if one.moves else None
            yield Draws(image, corner, spectrum[:, k], image_in=moving)
        else:
            moved = np.asarray(parts.image)
            yield Draws(image, corner, spectrum[:, k], moved, _stacked(posterior["gradient"])[:, k])


def _images_of(group: Any, values: dict[str, np.ndarray]) -> Callable[[int], np.ndarray]:
    """Return a function from the number of an exposure to the images of a group there."""
    return lambda number: np.asarray(group.image_in(values, number, np))


def _of_one(facts: dict, row: int) -> dict:
    """Return the facts of a group of one source, where they have values by source."""
    settings = dict(facts["settings"])
    if "shapes" in settings:
        settings["rows"] = [0]
        settings["shapes"] = {name: [values[row]] for name, values in settings["shapes"].items()}
        settings["flux"] = [settings["flux"][row]]
    return facts | {"settings": settings}


def scene_groups(tree: Any):
    """Return the groups ``posterior`` and ``constant_data``; InputError unless of a scene."""
    if "scene" not in tree.attrs:
        raise InputError("these draws are not of a deblended scene; make them by sample_deblended.")
    return group(tree, "posterior"), group(tree, "constant_data")


def group_ids(posterior, name: str) -> list[str]:
    """Return the ids of the sources of one group of a scene, in their order."""
    return [str(identity) for identity in posterior[f"{name}_source"].values]


def group_values(posterior, name: str, row: int) -> dict[str, np.ndarray]:
    """Return draws ``[N, ...]`` of the sites of one source, by name without prefix."""
    dim, prefix = f"{name}_source", f"{name}_"
    return {
        str(site).removeprefix(prefix): _stacked(values.isel({dim: row}))
        for site, values in posterior.data_vars.items()
        if dim in values.dims and str(site).startswith(prefix)
    }


def _stacked(array) -> np.ndarray:
    """Return an array with the chains one after the other."""
    values = np.asarray(array)
    return values.reshape(-1, *values.shape[2:])


def flux_draws(tree: Any):
    """Return fluxes in the unit of tables, ``[chain, draw, source, band]``."""
    posterior, constant = scene_groups(tree)
    flux = posterior["flux"].astype(float) * constant["flux_factor"].values
    return flux.assign_attrs(unit=tree.attrs["flux_unit"])


def seen_flux_draws(tree: Any):
    """Return `flux_draws` with NaN in bands in which a source has no data.

    The draws themselves have fluxes there, which are those of the prior on colors.
    """
    _, constant = scene_groups(tree)
    flux = flux_draws(tree)
    if "data_share" not in constant:  # draws of an earlier version
        return flux
    seen = has_data(constant["data_share"].values)
    return flux.copy(data=np.where(seen, flux.values, np.nan))


def flux_covariance(tree: Any) -> xarray.DataArray:
    """Return the posterior covariance of all fluxes, between neighbors and between bands.

    Parameters
    ----------
    tree
        Draws of `sample_deblended` or `laplace_deblended`.

    Returns
    -------
    xarray.DataArray
        Covariance, ``source, band, source2, band2``; its attribute `unit` is that of a flux
        squared.
    """
    flux = flux_draws(tree)
    sources, bands = flux["source"].values, flux["band"].values
    values = _stacked(flux).reshape(-1, len(sources) * len(bands))
    covariance = np.atleast_2d(np.cov(values, rowvar=False))
    unit = u.Unit(tree.attrs["flux_unit"]) ** 2
    return xarray.DataArray(
        covariance.reshape(len(sources), len(bands), len(sources), len(bands)),
        dims=("source", "band", "source2", "band2"),
        coords={"source": sources, "band": bands, "source2": sources, "band2": bands},
        attrs={"unit": unit.to_string()},
        name="flux_covariance",
    )


def error_ratio(approximate: Any, sampled: Any) -> np.ndarray:
    """Return the ratio of the standard deviations of total fluxes, per source ``[K]``.

    Parameters
    ----------
    approximate, sampled
        Trees of one scene, from `laplace_deblended` and `sample_deblended`.

    Raises
    ------
    InputError
        For scenes of different numbers of sources.
    """
    first, second = (
        np.asarray(flux_draws(tree).sum("band").std(("chain", "draw")))
        for tree in (approximate, sampled)
    )
    if first.shape != second.shape:
        raise InputError(f"{first.shape[0]} sources cannot be compared with {second.shape[0]}.")
    return first / second


def source_moments(tree: Any) -> xarray.Dataset:
    """Return posterior mean and standard deviation of every source's image in every band.

    Parameters
    ----------
    tree
        Draws of `sample_deblended` or `laplace_deblended`.

    Returns
    -------
    xarray.Dataset
        Variables ``mean`` and ``sd``, ``source, band, y, x``, at the model's resolution, in
        the units of the image.
    """
    posterior, _ = scene_groups(tree)
    sources, bands = posterior["source"].values, posterior["band"].values
    shape = int(tree.attrs["height"]), int(tree.attrs["width"])
    mean, sd = np.zeros((2, len(sources), len(bands), *shape), np.float32)
    for k, draws in enumerate(source_draws(tree)):
        inside = overlap(draws.corner, draws.image.shape[-1], shape)
        if inside is None:
            continue
        box_mean, box_sd = draws.moments()
        mean[k][:, *inside[0]] = box_mean[:, *inside[1]]
        sd[k][:, *inside[0]] = box_sd[:, *inside[1]]
    dims = ("source", "band", "y", "x")
    return xarray.Dataset(
        {"mean": (dims, mean), "sd": (dims, sd)},
        coords={
            "source": sources,
            "band": bands,
            "y": np.arange(shape[0]),
            "x": np.arange(shape[1]),
        },
        attrs={"unit": tree.attrs["image_unit"]},
    )


def flux_catalog(tree: Any) -> QTable:
    """Return a table of the sources with errors from the draws, in the order of the catalog.

    Parameters
    ----------
    tree
        Result of `sample_deblended`.

    Returns
    -------
    astropy.table.QTable
        Means as values and standard deviations as errors, all uncertainties included;
        percentiles of fluxes, all NaN in bands in which the source has no data and left out of its
        total (``meta["no_data"]`` names them); shapes at the model's resolution, measured on the draws.
        ``neighbor`` is the source whose total flux is most correlated with this one's.
        The full covariance is that of `flux_covariance`.
    """
    posterior, _ = scene_groups(tree)
    flux = flux_draws(tree)
    draws = _stacked(seen_flux_draws(tree))
    bands = [str(b) for b in posterior["band"].values]
    ids = np.array([str(i) for i in posterior["source"].values])
    unit = u.Unit(tree.attrs["flux_unit"])
    zero_point = tree.attrs.get("flux_zero_point")
    table = QTable()
    table["id"] = ids
    if "models" in tree.attrs:  # not in draws of an earlier version
        table["model"] = json.loads(tree.attrs["models"])
    _add_shapes(table, tree)
    for b, band in enumerate(bands):
        _add_flux(table, band, draws[:, :, b], unit, zero_point)
    total = total_seen(draws)
    _add_flux(table, "total", total, unit, None)
    _add_neighbors(table, ids, total)
    one = flux.to_dataset(name="flux")
    table["flux_ess"] = effective_sizes(one)["flux"].min(1)
    if flux.sizes["chain"] > 1:
        table["flux_rhat"] = rank_rhat(np.asarray(one["flux"])).max(1)
    for name in table.colnames:
        table[name].info.description = _description(name, bands)
    attrs = tree.attrs
    table.meta.update(
        prior=attrs["prior_name"],
        sigma0=float(attrs.get("prior_sigma", np.nan)),
        algorithm=attrs.get("algorithm", ""),
        num_draws=len(draws),
        warnings=said(tree),
        doubts=list(doubts_of_draws(tree).values()),
        no_data=_without_data(ids, bands, draws[0]),
        seed=attrs.get("seed", ""),
        scorepriors=attrs.get("scorepriors_version", ""),
    )
    return table


def _without_data(ids, bands, flux) -> str:
    """Return the bands without data by source, from fluxes ``[K, B]`` that are NaN there."""
    each = zip(ids, np.isnan(flux), strict=True)
    return "; ".join(f"{i}: {', '.join(np.array(bands)[out])}" for i, out in each if out.any())


def _add_flux(table, band, values, unit, zero_point) -> None:
    """Add the columns of one band from draws ``[N, K]``."""
    mean, sd = values.mean(0), values.std(0, ddof=1)
    table[f"flux_{band}"] = mean * unit
    table[f"flux_err_{band}"] = sd * unit
    for percent, column in zip(
        _PERCENTILES, np.percentile(values, _PERCENTILES, axis=0), strict=True
    ):
        table[f"flux_q{percent}_{band}"] = column * unit
    if zero_point is not None:
        bright = np.where(mean > 0, mean, np.nan)
        table[f"mag_{band}"] = (zero_point - 2.5 * np.log10(bright)) * u.mag
        table[f"mag_err_{band}"] = magnitude_errors(mean, sd) * u.mag


def _add_shapes(table, tree) -> None:
    """Add centroids, sizes and ellipticities, measured draw by draw."""
    wcs = WCS(fits.Header.fromstring(tree.attrs["wcs"])) if "wcs" in tree.attrs else None
    place, shape, sky = [], [], []
    for image, corner, *_ in source_draws(tree):
        chosen = image[:: -(-len(image) // SHAPE_DRAWS)]
        where = centroids(chosen) + corner
        place.append(_mean_and_sd(where))
        size, e1, e2 = shapes(chosen)
        shape.append(_mean_and_sd(np.stack([size, e1, e2, np.hypot(e1, e2)], axis=1)))
        if wcs is not None:
            sky.append(_on_the_sky(wcs, where))
    (row, row_sd), (column, column_sd) = np.moveaxis(np.array(place), 0, -1)
    table["x"], table["y"] = column, row
    table["x_err"], table["y_err"] = column_sd * u.pix, row_sd * u.pix
    if wcs is not None:
        ra, dec, ra_sd, dec_sd = np.array(sky).T
        table["ra"], table["dec"] = ra * u.deg, dec * u.deg
        table["ra_err"], table["dec_err"] = ra_sd * u.arcsec, dec_sd * u.arcsec
    _add_motions(table, tree, np.stack([row, column], 1), wcs)
    size, e1, e2, modulus = np.moveaxis(np.array(shape), 0, -1)
    table["size"], table["size_err"] = size * u.pix
    if "pixel_scale" in tree.attrs:
        scale = float(tree.attrs["pixel_scale"]) * u.arcsec
        table["size_arcsec"], table["size_arcsec_err"] = size[0] * scale, size[1] * scale
    for name, values in (("e1", e1), ("e2", e2), ("ellipticity", modulus)):
        table[name], table[f"{name}_err"] = values


def _add_motions(table, tree, center, wcs) -> None:
    """Add the motions of stars that move, where there are any."""
    ids = [str(one) for one in table["id"]]
    posterior, _ = scene_groups(tree)
    for facts in json.loads(tree.attrs["scene"]):
        if facts["kind"] != "MovingStar":
            continue
        way, covariance = np.full((len(ids), 2), np.nan), np.full((len(ids), 2, 2), np.nan)
        for row, identity in enumerate(group_ids(posterior, facts["name"])):
            drawn = group_values(posterior, facts["name"], row)["way"].astype(float)
            number = ids.index(identity)
            way[number], covariance[number] = drawn.mean(0), np.cov(drawn, rowvar=False)
        days = float(facts["settings"]["days"])
        for name, column in columns_of_ways(way, covariance, days, center, wcs).items():
            table[name] = column


def _mean_and_sd(values) -> np.ndarray:
    """Return mean and standard deviation ``[quantity, 2]`` of draws ``[N, quantity]``."""
    return np.stack([values.mean(0), values.std(0, ddof=1)], axis=1)


def _on_the_sky(wcs, where):
    """Return the mean position in degrees, and its errors along both axes in arcseconds."""
    points = wcs.pixel_to_world(where[:, 1], where[:, 0]).icrs
    middle = wcs.pixel_to_world(*where.mean(0)[::-1]).icrs
    east, north = middle.spherical_offsets_to(points)
    errors = (np.std(a.to_value(u.arcsec), ddof=1) for a in (east, north))
    return middle.ra.deg, middle.dec.deg, *errors


def _add_neighbors(table, ids, total) -> None:
    """Add a column with the source of the most correlated total flux."""
    if len(ids) < 2:
        return
    correlation = flux_correlation(total)
    np.fill_diagonal(correlation, 0.0)
    nearest = np.abs(correlation).argmax(1)
    table["neighbor"] = ids[nearest]
    table["neighbor_correlation"] = correlation[np.arange(len(ids)), nearest]


def flux_correlation(values: np.ndarray) -> np.ndarray:
    """Return correlations of the columns of draws ``[N, K]``; zero for constant ones."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(np.atleast_2d(np.corrcoef(values, rowvar=False)))


def _description(name: str, bands) -> str:
    if name in _DESCRIPTIONS:
        return _DESCRIPTIONS[name]
    if name.endswith("_err") and name[:-4] in _DESCRIPTIONS:
        return f"standard deviation: {_DESCRIPTIONS[name[:-4]]}"
    # The name of a band may contain an underscore, so it is not found by splitting.
    band = max((b for b in [*bands, "total"] if name.endswith(f"_{b}")), key=len)
    where = "all bands" if band == "total" and "total" not in bands else f"band {band}"
    kind = name[: -len(band) - 1]
    if kind.startswith("flux_q"):
        return f"percentile {kind[6:]} of the flux, {where}"
    return f"{_BAND_DESCRIPTIONS[kind]}, {where}"


_BAND_DESCRIPTIONS = {
    "flux": "posterior mean of the flux",
    "flux_err": "posterior standard deviation of the flux",
    "mag": "AB magnitude of the mean flux",
    "mag_err": "standard deviation of the magnitude, to first order",
}

_DESCRIPTIONS = {
    "id": "name in the input catalog",
    "model": "what the source was sampled as: point, profile or free-form (under the learned prior)",
    "ra": "ICRS right ascension of the centroid",
    "dec": "ICRS declination of the centroid",
    "ra_err": "standard deviation towards the east",
    "x": "column of the centroid, 0-based pixel",
    "y": "row of the centroid, 0-based pixel",
    "size": "second-moment radius at the model's resolution",
    "size_arcsec": "second-moment radius on the sky",
    "e1": "(Ixx - Iyy) / (Ixx + Iyy) at the model's resolution",
    "e2": "2 Ixy / (Ixx + Iyy) at the model's resolution",
    "ellipticity": "modulus of (e1, e2)",
    "neighbor": "source whose total flux is most correlated with this one's",
    "neighbor_correlation": "that correlation",
    "flux_ess": "bulk effective draws of the fluxes, the least over bands",
    "flux_rhat": "R-hat of the fluxes, the largest over bands",
    **MOTION_TEXTS,
}


def source_images(tree: Any) -> fits.HDUList:
    """Return FITS cubes ``[B, H, W]`` per source: posterior mean and standard deviation.

    Extensions MEAN_id and SD_id, at the model's resolution, and FLUX_COVARIANCE, a
    matrix over sources and bands (bands run fastest).
    """
    found = source_moments(tree)
    attrs = tree.attrs
    primary = fits.PrimaryHDU()
    if "prior_sigma" in attrs:
        primary.header["PRIOR"] = (fits_text(attrs["prior_name"]), "learned prior")
        primary.header["SIGMA0"] = (float(attrs["prior_sigma"]), "noise level of the prior")
    trusted = not said(tree) and not doubts_of_draws(tree)
    primary.header["TRUSTED"] = (trusted, "whether no check failed, nor doubts exist")
    wcs = fits.Header.fromstring(attrs["wcs"]) if "wcs" in attrs else None
    bands = found["band"].values
    header = image_header(wcs, bands, attrs["image_unit"])
    hdus = [primary]
    ids = [str(one) for one in found["source"].values]
    for k, (identity, name) in enumerate(zip(ids, source_names(ids), strict=True)):
        for kind in ("mean", "sd"):
            named = f"{kind.upper()}_{name}"
            hdus.append(source_hdu(found[kind].values[k], header, named, identity))
    covariance = flux_covariance(tree)
    unit = covariance.attrs["unit"]
    hdus.append(covariance_hdu(covariance.values, bands, unit, "FLUX_COVARIANCE"))
    return fits.HDUList(hdus)
