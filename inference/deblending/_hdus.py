"""Images of sources as FITS extensions."""

from collections.abc import Sequence

import numpy as np
from astropy import units as u
from astropy.io import fits

from ._result import Deblended
from ._sky import FittedSky

#: Longest name of a source in that of an extension, which has 68 characters.
_LONGEST = 48


def model_images(result: Deblended) -> fits.HDUList:
    """Return two cubes ``[B, H, W]`` per source, of the model and as observed, and the residual.

    Where a sky was fitted it follows as SKY: data minus sources minus sky are the residual.  Where
    pixels lost weight as outliers, KEPT is the share of it that they kept.  Each of joined
    observations has its own cubes of sources as observed (SOURCE, SOURCE2, ...).  FLUX_COVARIANCE
    and MEASURED_FLUX_COVARIANCE are those of the posterior and of the measured fluxes of the
    catalog, in its unit squared (`covariance_hdu`).
    """
    obs, found = result.observation, result.free_form
    primary = fits.PrimaryHDU()
    if result.prior_name:
        primary.header["PRIOR"] = (fits_text(result.prior_name), "learned prior")
        primary.header["SIGMA0"] = (result.sigma0, "noise level of the prior")
    primary.header["CONVERGD"] = (result.converged, "whether the fit converged")
    primary.header["CHI2"] = (finite(found.chi2), "per unmasked pixel")
    wcs = None if obs.wcs is None else obs.wcs.to_header(relax=True)
    header = image_header(wcs, obs.bands, obs.unit, obs.zero_point)
    hdus = [primary]
    names = source_names(result.positions.ids)
    for k, (identity, name) in enumerate(zip(result.positions.ids, names, strict=True)):
        hdus.append(source_hdu(found.model(k), header, f"MODEL_{name}", identity))
        hdus += observed_hdus(obs, [cube[k] for cube in found.convolved], identity, name)
    hdus += residual_hdus(obs, found.convolved)
    hdus += mending_hdus(result, result.sky)
    unit, factor = obs.flux_unit
    scaled = result.photometry.scaled(factor)
    for name, covariance in (
        ("FLUX_COVARIANCE", scaled.covariance),
        ("MEASURED_FLUX_COVARIANCE", scaled.measured_covariance),
    ):
        hdus.append(covariance_hdu(covariance, obs.bands, unit**2, name))
    return fits.HDUList(hdus)


def covariance_hdu(covariance: np.ndarray, bands, unit, name: str) -> fits.ImageHDU:
    """Return the covariance of fluxes as a matrix over sources and bands, bands run fastest.

    Parameters
    ----------
    covariance
        Covariance ``[N, B, N, B]``.
    bands
        Names of the bands.
    unit
        Unit of the covariance.
    name
        Name of the extension.
    """
    size = int(np.prod(np.shape(covariance)[:2]))
    header = image_header(None, bands, unit)
    return fits.ImageHDU(np.reshape(covariance, (size, size)), header, name=name)


def mending_hdus(result: Deblended, sky: FittedSky | None) -> list[fits.ImageHDU]:
    """Return the extensions SKY, of a sky, and KEPT, one per observation, as far as there are any."""
    hdus = [] if sky is None else image_hdus(result.observation, sky.images, "SKY")
    if result.kept is not None:
        hdus += image_hdus(result.observation, result.kept, "KEPT", unit=False)
    return hdus


def image_header(
    wcs: fits.Header | None, bands, unit, zero_point: Sequence[float] | None = None
) -> fits.Header:
    """Return the header of images: WCS, bands, unit, and zero points (None or empty for none)."""
    header = fits.Header() if wcs is None else wcs.copy()
    header["BANDS"] = fits_text(",".join(map(str, bands)))
    if unit is not None and str(unit):
        header["BUNIT"] = u.Unit(unit).to_string()
    # As `Observation.to_fits` writes them, and readers look for them.
    header.update({f"MAGZERO{i}": float(zero) for i, zero in enumerate(zero_point or (), 1)})
    return header


def source_names(ids: Sequence[str]) -> list[str]:
    """Return what names of extensions call sources: all different, as names in FITS compare.

    Capitals count for nothing there, other letters than ASCII become question marks, and long names
    are cut; of names that are equal then, all but the first get a number.

    Examples
    --------
    >>> source_names(["a", "A", "b"])
    ['a', 'A_2', 'b']
    """
    out: list[str] = []
    taken: set[str] = set()
    for one in ids:
        plain = fits_text(one)[:_LONGEST]
        name, number = plain, 2
        while name.upper() in taken:
            name, number = f"{plain}_{number}", number + 1
        taken.add(name.upper())
        out.append(name)
    return out


def source_hdu(cube, header: fits.Header, name: str, identity) -> fits.ImageHDU:
    """Return an extension of one source."""
    named = header.copy()
    named["SOURCEID"] = fits_text(identity)
    return fits.ImageHDU(np.asarray(cube, np.float32), named, name=name)


def observed_hdus(obs, cubes, identity, name: str) -> list[fits.ImageHDU]:
    """Return extensions ``SOURCE_name`` of a source as observed, one per observation."""
    return [
        source_hdu(cube, header, f"SOURCE{number}_{name}", identity)
        for cube, (_, number, header) in zip(cubes, _views(obs), strict=True)
    ]


def residual_hdus(obs, convolved) -> list[fits.ImageHDU]:
    """Return extensions RESIDUAL, one per observation: data minus sources, zero where masked."""
    hdus = []
    for cube, (one, number, header) in zip(convolved, _views(obs), strict=True):
        residual = np.where(one.weights > 0, one.images - cube.sum(0), 0).astype(np.float32)
        hdus.append(fits.ImageHDU(residual, header, name=f"RESIDUAL{number}"))
    return hdus


def image_hdus(
    obs, cubes: Sequence[np.ndarray], name: str, *, unit: bool = True
) -> list[fits.ImageHDU]:
    """Return extensions of cubes ``[B, H, W]``, one per observation, in its unit or without any."""
    hdus = []
    for cube, (_, number, header) in zip(cubes, _views(obs), strict=True):
        if not unit:
            header.remove("BUNIT", ignore_missing=True)
            for card in [one for one in header if one.startswith("MAGZERO")]:
                del header[card]
        hdus.append(fits.ImageHDU(np.asarray(cube, np.float32), header, name=f"{name}{number}"))
    return hdus


def _views(obs):
    """Yield observations, suffixes of the names of their extensions, and headers."""
    for number, view in enumerate(obs.views, 1):
        one = view.observation
        wcs = None if one.wcs is None else one.wcs.to_header(relax=True)
        zeros = None
        if obs.zero_point is not None:
            known = dict(zip(obs.bands, obs.zero_point, strict=True))
            zeros = [known[band] for band in view.bands]
        header = image_header(wcs, view.bands, obs.unit, zeros)
        yield one, "" if number == 1 else number, header


def fits_text(text: str) -> str:
    """Return text for a FITS header: printable ASCII, question marks for the rest."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in str(text))


def finite(value) -> float | None:
    """Return a float for JSON and FITS; None for NaN and infinities."""
    value = float(value)
    return value if np.isfinite(value) else None
