"""Facts about surveys, one row each, and the bands and zero points that they share.

Numbers of LSST and HSC are those that `surveycodex` collects, with their references: zero
points, exposure times of the whole survey, sky brightness and seeing.  Those of others,
which `surveycodex` lacks, are from the papers named beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ._errors import InputError
from ._filters import WAVELENGTHS

#: AB magnitude of one nanojansky as surveys round it: zero points of 31.4 mean nanojanskys.
#: One unit of simulated images has this magnitude.
ZERO_POINT = 31.4

#: The exact value, 2.5 log10(3631e9), for images whose unit is converted.
NANOJANSKY_ZERO_POINT = float(2.5 * np.log10(3631e9))


@dataclass(frozen=True)
class Camera:
    """Camera of a simulated image; arrays by band.

    Attributes
    ----------
    bands
        Names from blue to red, as a text if each is one letter.
    scale
        Arcseconds per pixel.
    seeing
        FWHM of the PSF before the pixel, arcsec, ``[B]``.
    gain
        Gain, nJy per electron, ``[B]``.
    sky_variance
        Variance of a pixel without sources, nJy squared, ``[B]``.
    aperture
        Diameter of a telescope in space, m; None for one that looks through the atmosphere.
    """

    bands: Sequence[str]
    scale: float
    seeing: np.ndarray
    gain: np.ndarray
    sky_variance: np.ndarray
    aperture: float | None = None


@dataclass(frozen=True)
class Depths:
    """Published depths of a survey; one number per band.

    Attributes
    ----------
    seeing
        FWHM of the PSF before the pixel, arcsec.
    depth
        5 sigma depth for point sources, AB magnitude.
    sky
        Sky brightness, AB magnitude per square arcsec; empty where the gain is given.
    gain
        Gain, nJy per electron; empty where the sky is given.
    """

    seeing: tuple[float, ...]
    depth: tuple[float, ...]
    sky: tuple[float, ...] = ()
    gain: tuple[float, ...] = ()


@dataclass(frozen=True)
class Galaxies:
    """The galaxies in simulated blends of a survey.

    Attributes
    ----------
    training_set
        Name of the training set whose shapes they have, ``"lsst"``, ``"ztf"`` or
        ``"euclid-large"``.
    magnitudes
        Brightest and faintest i magnitude (AB).
    size
        i magnitude at which their median size is that of the training set.
    """

    training_set: str
    magnitudes: tuple[float, float]
    size: float


@dataclass(frozen=True)
class ErrorModel:
    """What errors of fluxes have beyond those of the curvature (`Photometry`).

    Calibrated on simulated blends (``benchmarks/errors``), on other seeds than the figures of
    the documentation.

    Attributes
    ----------
    scale
        Factor of the errors from the curvature: above one where galaxies are hardly resolved, for
        which the curvature says too little.
    misfit
        Error of the model in units of the difference of the fluxes of the two fits.
    floor
        Least error of the model as a share of the flux.
    single
        Error of the model of a galaxy that has one fit alone, so that there is no difference, as a
        share of its flux at a signal to noise of one; it falls with the root of that.
    size, ellipticity
        Errors of the model of sizes and of ellipticities, in units of their differences between the
        two fits.
    single_size
        Factor of the error of the size of a galaxy that has one fit alone.
    """

    scale: float = 1.0
    misfit: float = 2.0
    floor: float = 0.005
    single: float = 0.15
    size: float = 1.25
    ellipticity: float = 0.75
    single_size: float = 1.12


@dataclass(frozen=True)
class Survey:
    """One survey.

    Attributes
    ----------
    name
        Name, as on the command line.
    bands
        Names from blue to red, as a text if each is one letter.
    scale
        Arcseconds per pixel.
    depths
        Published depths; None if they are only in `surveycodex`.
    in_codex
        Whether sets of blends take their noise from `surveycodex`.
    training_sets
        Populations simulated at these pixels (`scorepriors.training`).
    priors
        Shipped priors used for these pixels by default, by growing boxes.
    named_priors
        Shipped priors for these pixels that are used only if named, since others for the
        same pixels are better densities (see the model cards).
    galaxies
        Galaxies in sets of simulated blends; None if there are no such sets.
    errors
        Model of the errors of fluxes for these pixels.
    stars
        Share of stars among detected sources, away from the plane of the Galaxy.
    aperture
        Diameter of a telescope in space, m; None for one that looks through the atmosphere.
    """

    name: str
    bands: Sequence[str]
    scale: float
    depths: Depths | None = None
    in_codex: bool = False
    training_sets: tuple[str, ...] = ()
    priors: tuple[str, ...] = ()
    named_priors: tuple[str, ...] = ()
    galaxies: Galaxies | None = None
    errors: ErrorModel = ErrorModel()
    stars: float = 0.1
    aperture: float | None = None

    @property
    def wavelengths(self) -> tuple[int, ...]:
        """Effective wavelengths of the bands, nm."""
        return tuple(WAVELENGTHS[band] for band in self.bands)

    def camera(self) -> Camera:
        """Return the camera of simulated sets: the whole survey, or one exposure of ZTF.

        Raises
        ------
        InputError
            If the survey is in `surveycodex`, which is not installed.
        """
        return _codex_camera(self) if self.in_codex else self.published_camera()

    def published_camera(
        self, bands: Sequence[str] | None = None, *, years: float = 10.0
    ) -> Camera:
        """Return the camera of simulated single blends, with the published `depths`.

        Parameters
        ----------
        bands
            Some of the survey's bands; all if not given.
        years
            Years of the LSST survey; the published depth is that of ten.

        Raises
        ------
        InputError
            If a band is unknown.
        """
        bands = self.bands if bands is None else bands
        unknown = [b for b in bands if b not in self.bands]
        if unknown:
            raise InputError(
                f"unknown {self.name.upper()} band {unknown[0]!r}; known are {self.bands}."
            )
        if self.depths is None:
            raise ValueError(f"no depths of {self.name} are published here.")
        picks = [self.bands.index(b) for b in bands]
        seeing, depth = np.array(self.depths.seeing)[picks], np.array(self.depths.depth)[picks]
        # Noise falls with the square root of the exposure.
        depth = depth - 1.25 * np.log10(10 / years)
        variance = point_source_noise(depth, seeing, self.scale) ** 2
        if self.depths.gain:
            gain = np.array(self.depths.gain)[picks]
        else:
            sky = np.array(self.depths.sky)[picks]
            gain = variance / (flux_of(sky) * self.scale**2)
        return Camera(bands, self.scale, seeing, gain, variance, self.aperture)


def flux_of(magnitude):
    """Return the flux in nJy of an AB magnitude."""
    return 10 ** (-0.4 * (np.asarray(magnitude, float) - ZERO_POINT))


def magnitude_errors(flux, error) -> np.ndarray:
    """Return errors of magnitudes to first order; NaN without light, where there is no magnitude.

    Parameters
    ----------
    flux, error
        Fluxes and their errors, of one shape and in one unit.

    Examples
    --------
    >>> magnitude_errors([10.0, -1.0], [1.0, 1.0]).round(3)
    array([0.109,   nan])
    """
    flux = np.asarray(flux, float)
    return 2.5 / np.log(10) * np.asarray(error, float) / np.where(flux > 0, flux, np.nan)


def point_source_noise(depth, seeing, scale):
    """Return the standard deviation of a pixel, nJy, from the 5 sigma depth.

    The depth is that for point sources.  Counts the effective pixels of an atmospheric PSF
    as the LSST requirements do.

    Parameters
    ----------
    depth
        AB magnitude.
    seeing, scale
        FWHM and pixel side, arcsec.
    """
    return flux_of(depth) / 5 / np.sqrt(2.266 * (np.asarray(seeing) / scale) ** 2)


def _codex_camera(survey: Survey) -> Camera:
    """Return the camera of `surveycodex`: all exposures of a survey added up."""
    try:
        from surveycodex import get_survey
    except ImportError as error:
        raise InputError(
            f"the numbers of {survey.name} come with surveycodex: "
            "pip install 'scorepriors[simulation]'."
        ) from error
    facts = get_survey(survey.name.upper())
    filters = [facts.get_filter(band) for band in survey.bands]
    # `zeropoint` is the magnitude of one electron per second.
    gain = np.array(
        [flux_of(f.zeropoint.value) / f.full_exposure_time.to_value("s") for f in filters]
    )
    sky = flux_of([f.sky_brightness.value for f in filters]) * survey.scale**2
    seeing = np.array([f.psf_fwhm.to_value("arcsec") for f in filters])
    return Camera(survey.bands, survey.scale, seeing, gain, gain * sky)


# A galaxy at the faint end of a set is barely detected: LSST at the i = 27 of Sampson et al.
# (2024), section 4.3, the others as their noise allows.

#: Depths: ten years; Ivezic et al. 2019, ApJ 873, 111.  Single blends use these, sets the
#: numbers of `surveycodex`: but for u they agree within half a magnitude.
LSST = Survey(
    "lsst",
    "ugrizy",
    0.2,
    depths=Depths(
        seeing=(0.92, 0.87, 0.83, 0.80, 0.78, 0.76),
        depth=(26.1, 27.4, 27.5, 26.8, 26.1, 24.9),
        sky=(22.99, 22.26, 21.20, 20.48, 19.60, 18.61),
    ),
    in_codex=True,
    training_sets=("lsst", "lsst-irregular", "lsst-large"),
    priors=("lsst-32", "lsst-64"),
    named_priors=("lsst-irregular-32",),
    galaxies=Galaxies("lsst", (20.0, 27.0), 25.0),
)

HSC = Survey(
    "hsc",
    "grizy",
    0.168,
    in_codex=True,
    training_sets=("hsc",),
    priors=("hsc-32",),
    galaxies=Galaxies("lsst", (19.0, 26.0), 25.0),
    errors=ErrorModel(scale=1.25, floor=0.02),
)

#: One exposure.  Seeing and depth (30 s): Bellm et al. 2019, PASP 131, 018002, table 1.  Gain:
#: zero points (AB of one ADU) of Masci et al. 2019, PASP 131, 018003, and 6.2 electrons per
#: ADU, Dekany et al. 2020, PASP 132, 038001.
ZTF = Survey(
    "ztf",
    "gri",
    1.01,
    depths=Depths(
        seeing=(2.1, 2.0, 2.1),
        depth=(20.8, 20.6, 19.9),
        gain=tuple(flux_of([26.325, 26.275, 25.660]) / 6.2),
    ),
    training_sets=("ztf",),
    priors=("ztf-32",),
    galaxies=Galaxies("ztf", (14.0, 19.0), 17.0),
    errors=ErrorModel(scale=1.6, floor=0.02),
    stars=0.5,
)

#: Where galaxies are resolved, their structure is what the models miss: calibrated on blends of
#: `EUCLID` and `HST` of other seeds than the figures of the documentation.
RESOLVED = ErrorModel(scale=1.7, misfit=2.7, floor=0.03, single=0.25)

#: A near-infrared camera in space: the depth and the zodiacal light that Euclid's wide survey
#: was planned with (Scaramella et al. 2022, A&A 662, A112), on pixels of 0.1 arcsec.
SPACE = Survey(
    "space",
    "YJH",
    0.1,
    depths=Depths(seeing=(0.48, 0.50, 0.52), depth=(24.0,) * 3, sky=(22.1, 22.1, 22.3)),
    errors=RESOLVED,
)

#: Euclid's visible camera, its wide survey: width of the PSF, depth (24.5 at 10 sigma for galaxies,
#: some 26.2 at 5 sigma for point sources) and sky as planned (Scaramella et al. 2022, A&A 662, A112).
EUCLID = Survey(
    "euclid",
    ("VIS",),
    0.1,
    depths=Depths(seeing=(0.16,), depth=(26.2,), sky=(22.35,)),
    training_sets=("euclid", "euclid-large"),
    priors=(),
    galaxies=Galaxies("euclid-large", (20.0, 25.0), 23.0),
    errors=RESOLVED,
    aperture=1.2,
)

#: Cameras like HST's and JWST's in the infrared (WFC3, drizzled, and the long waves of NIRCam), for
#: simulated pairs: widths and depths of deep fields.
HST = Survey(
    "hst",
    "YJ",
    0.08,
    depths=Depths(seeing=(0.15, 0.16), depth=(27.0, 27.0), sky=(22.6, 22.5)),
    galaxies=Galaxies("euclid-large", (20.0, 26.0), 23.0),
    errors=RESOLVED,
    aperture=2.4,
)
JWST = Survey(
    "jwst", "HK", 0.063, depths=Depths(seeing=(0.13, 0.15), depth=(28.0, 28.0), sky=(22.5, 22.5))
)

#: Every survey.
SURVEYS = (LSST, HSC, ZTF, EUCLID, SPACE, HST)

#: Pixel scale in arcseconds of each built-in training set.
PIXEL_SCALES = {name: one.scale for one in SURVEYS for name in one.training_sets}


def survey(name: str) -> Survey:
    """Return a survey with sets of blends by name.

    These are ``"lsst"``, ``"hsc"``, ``"ztf"``, ``"euclid"`` (its visible camera) and ``"hst"``
    (in the near infrared).

    Raises
    ------
    InputError
        If the name is unknown.

    Examples
    --------
    >>> one = survey("ztf")
    >>> one.bands, one.scale
    ('gri', 1.01)
    """
    known = {one.name: one for one in SURVEYS if one.galaxies is not None}
    if name not in known:
        raise InputError(f"unknown survey {name!r}; there are {', '.join(known)}.")
    return known[name]


def nearest_survey(pixel_scale: float | None) -> Survey:
    """Return the survey with priors whose pixels are nearest in size.

    Parameters
    ----------
    pixel_scale
        Pixel scale in arcseconds; None, if unknown, gives LSST.
    """
    return _nearest([one for one in SURVEYS if one.priors], pixel_scale)


def survey_of_pixels(pixel_scale: float | None) -> Survey:
    """Return the survey whose pixels are nearest in size, with priors or without.

    Parameters
    ----------
    pixel_scale
        Pixel scale in arcseconds; None, if unknown, gives LSST.
    """
    return _nearest(SURVEYS, pixel_scale)


def _nearest(surveys: Sequence[Survey], pixel_scale: float | None) -> Survey:
    scale = LSST.scale if pixel_scale is None else pixel_scale
    return min(surveys, key=lambda one: abs(np.log(one.scale / scale)))
