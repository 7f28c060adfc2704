"""What the simulations know of a survey: pixels, PSFs, sky, photons, and how faint to go.

Numbers of LSST and HSC are those that `surveycodex` collects, with their references:
zero points, exposure times of the whole survey, sky brightness and seeing.  ZTF is not in
there; its numbers are those of one exposure, from the two papers named beside them.
"""

from dataclasses import dataclass

import numpy as np

from ._errors import InputError

#: Pixel values of simulated images are nanojanskys.
ZERO_POINT = 31.4

#: One exposure of ZTF per band: seeing FWHM (arcsec) and 5 sigma depth (AB, 30 s), Bellm
#: et al. 2019, PASP 131, 018002, table 1; zero point (AB of one ADU), Masci et al. 2019,
#: PASP 131, 018003.
ZTF_BANDS = {"g": (2.1, 20.8, 26.325), "r": (2.0, 20.6, 26.275), "i": (2.1, 19.9, 25.660)}

#: Electrons per ADU of ZTF's camera; Dekany et al. 2020, PASP 132, 038001.
ZTF_GAIN = 6.2


@dataclass(frozen=True)
class Survey:
    """A survey as simulations need it.

    Attributes
    ----------
    name
        As on the command line.
    bands
        From blue to red.
    scale
        Arcseconds per pixel.
    seeing
        ``[B]``, FWHM of the PSF before the pixel, arcsec.
    gain
        ``[B]``, nJy per electron.
    sky_variance
        ``[B]``, nJy squared per pixel: that of an image without sources.
    magnitudes
        Brightest and faintest i magnitude (AB) of galaxies.
    size
        i magnitude at which the median size of galaxies is that of their `population`.
    population
        Name of the shapes, ``"lsst"`` or ``"ztf"`` of `scorepriors.training_sets`.
    """

    name: str
    bands: str
    scale: float
    seeing: np.ndarray
    gain: np.ndarray
    sky_variance: np.ndarray
    magnitudes: tuple[float, float]
    size: float
    population: str


def flux_of(magnitude):
    """Flux in nJy of an AB magnitude."""
    return 10 ** (-0.4 * (np.asarray(magnitude, float) - ZERO_POINT))


def point_source_noise(depth, seeing, scale):
    """Standard deviation of a pixel, nJy, from the 5 sigma depth for point sources.

    Counts the effective pixels of an atmospheric PSF as the LSST requirements do.

    Parameters
    ----------
    depth
        AB magnitude.
    seeing, scale
        FWHM and pixel side, arcsec.
    """
    return flux_of(depth) / 5 / np.sqrt(2.266 * (np.asarray(seeing) / scale) ** 2)


def survey(name: str) -> Survey:
    """A survey by its name: ``"lsst"`` (ugrizy), ``"hsc"`` (grizy) or ``"ztf"`` (gri).

    Raises
    ------
    InputError
        If the name is unknown or `surveycodex` is missing.

    Examples
    --------
    >>> one = survey("ztf")
    >>> one.bands, one.scale
    ('gri', 1.01)
    """
    if name not in SURVEYS:
        raise InputError(f"unknown survey {name!r}; there are {', '.join(SURVEYS)}.")
    return SURVEYS[name]()


def _codex(name: str, bands: str, magnitudes: tuple[float, float]) -> Survey:
    """A survey of `surveycodex`, the whole of its exposures added up."""
    try:
        from surveycodex import get_survey
    except ImportError as error:
        raise InputError(
            f"the numbers of {name} come with surveycodex: pip install 'scorepriors[simulation]'."
        ) from error
    facts = get_survey(name.upper())
    filters = [facts.get_filter(band) for band in bands]
    scale = facts.pixel_scale.to_value("arcsec")
    # `zeropoint` is the magnitude of one electron per second.
    gain = np.array(
        [flux_of(f.zeropoint.value) / f.full_exposure_time.to_value("s") for f in filters]
    )
    sky = flux_of([f.sky_brightness.value for f in filters]) * scale**2
    seeing = np.array([f.psf_fwhm.to_value("arcsec") for f in filters])
    return Survey(name, bands, scale, seeing, gain, gain * sky, magnitudes, 25.0, "lsst")


def _ztf() -> Survey:
    seeing, depth, zero_point = np.array(list(ZTF_BANDS.values())).T
    gain = flux_of(zero_point) / ZTF_GAIN
    noise = point_source_noise(depth, seeing, 1.01)
    bands = "".join(ZTF_BANDS)
    return Survey("ztf", bands, 1.01, seeing, gain, noise**2, (14.0, 19.0), 17.0, "ztf")


#: How to make each survey.  A galaxy at the faint end is seen, if barely: LSST to the i = 27
#: of Sampson et al. (2024), section 4.3, the others where their noise allows.
SURVEYS = {
    "lsst": lambda: _codex("lsst", "ugrizy", (20.0, 27.0)),
    "hsc": lambda: _codex("hsc", "grizy", (19.0, 26.0)),
    "ztf": _ztf,
}
