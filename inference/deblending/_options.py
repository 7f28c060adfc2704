"""Options of a deblending, for Python, the command line and evaluations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors.models.data._correlations import WORDS, correlation_of, is_list
from scorepriors.models.noise._sky import SKIES
from scorepriors.models.rendering._exposure import Exposure
from scorepriors.models.scene._blend import TREATMENTS
from scorepriors.models.scene._start import Spoil
from scorepriors.models.sources._abstract import AbstractSource
from scorepriors.models.sources._bulge_disk import BulgeDisk
from scorepriors.models.sources._sersic import Sersic
from scorepriors.models.sources._two_color import TwoColor
from scorepriors.models.spectra._priors import AbstractSpectra

from . import _defaults as defaults
from ._spectra import spectra_of

#: Parametric profiles by their names on the command line.
PROFILES: dict[str, Callable[..., AbstractSource]] = {
    "bulge-disk": BulgeDisk,
    "sersic": Sersic,
    "two-color": TwoColor,
}

#: Starts of a fit: the fitted profiles, or deliberately bad ones (see `Options`).
STARTS = ("profiles", "sed20", "flat", "gaussian", "blobs")

#: Models of galaxies in the final scene (see `Options`).
MODELS = ("free-form", "simplest", "profiles")

#: Variances of the pixels: those of the file, or with the noise of sources from the model where the
#: file's follow the noise of their own pixels.
NOISES = ("auto", "file")

#: Skies that are left in: found by themselves, or one of `scorepriors.models.Sky`, or never.
SKY = ("auto", *SKIES, "none")

#: Least side of the boxes of galaxies that no learned prior's box holds, pixels.
WIDE_BOX = 128

#: Model PSF, in pixels, of parametric sources together with a prior whose images have none:
#: much narrower than a pixel.
UNRESOLVED = 0.1


@dataclass(frozen=True)
class Options:
    """Keywords of `scorepriors.inference.deblend` and `deblend_many`, with their defaults.

    Attributes
    ----------
    profile
        Kind of the parametric sources: ``"bulge-disk"``, ``"sersic"`` (of free index),
        ``"two-color"`` (bulge and disk with spectra of their own), or a function that returns a group, called as ``profile(at, name, psf_sigma=, center_error=)``.
    spectra
        Treatment of the spectra, ``"marginal"`` or ``"profiled"``: see `blend`.
    center_error
        Standard deviation in pixels of the given positions, per axis.
    start
        Start of the fits.  ``"profiles"``: the parametric fit at the least-squares
        fluxes, the free-form one at its result.  The others are deliberately bad, to test
        their effect.  ``"sed20"``: spectra 20 times too bright in both fits;
        ``"flat"``: spectra of ones (in units of the image); ``"gaussian"``: the parametric
        fit from round Gaussians at the given positions, as wide at half maximum as a
        fifth of the box; ``"blobs"``: the free-form fit from these, independent of the
        parametric one.
    anneal
        Noise levels of the prior, largest first, for free-form fits before that at the
        prior's own: the rough shape is found before the details.
    models
        ``"free-form"``: every galaxy gets a free-form model, except those that no box holds.
        ``"simplest"``: only those whose bulge and disk the data refuse, if they are bright enough
        and a free form explains them better; others keep their profile.
        ``"profiles"``: none; the parametric scene is the result, and no learned prior is used.
    free_form
        False: the same as ``models="profiles"``, whatever `models` is.
    max_iterations
        Largest number of iterations of each fit.
    tolerance
        Nats per source that the last ten iterations of a fit may have gained at its end.  On ten
        simulated blends of 58 sources the fluxes at 0.5 are within 0.2 (the median), 0.6 (95 %)
        and 1.5 (the worst) of those at 0.005, in units of the catalog's errors; at 0.1 within
        0.1, 0.5 and 0.7, in 1.7 times the iterations.
    noise
        Variances of the pixels.  ``"auto"``: where those of the file follow the noise of their own
        pixels, which biases fluxes low, the noise of sources is taken from the fitted profiles
        (`scorepriors.models.noise_from_model`).  ``"file"``: always those of the file.
    rescale_noise
        Whether errors of bands whose empty pixels scatter by far more or less are rescaled
        (`scorepriors.models.rescale_noise`); otherwise a warning says so.
    subtract_sky
        Whether the median of empty pixels is subtracted (`scorepriors.models.subtract_sky`);
        otherwise a warning says where there is one that matters.
    variable
        Names of sources that vary between the epochs of a joint observation: their fluxes in each are
        free, and may be negative, while all others have one flux per filter.
    moving
        Names of stars that move from one epoch of a joint observation to the next, on straight lines;
        all that do not vary have one flux per filter.
    timescale
        Days over which fluxes of variable sources change, by an amplitude that is found for each; those
        of different epochs are independent if not given.
    sky
        Sky that is left in, and fitted with the sources: ``"constant"`` in each band, or a
        ``"plane"``, integrated out with the spectra (`scorepriors.models.Sky`); ``"none"`` or None
        for none.  ``"auto"``: where empty pixels show one that matters.
    outliers
        Whether pixels far from what sources can explain, such as cosmic rays, hot pixels and neighbors
        that the catalog lacks, lose weight after a first fit.
    model_error
        Whether the pixels get an error that grows with the light, such as of a PSF that is slightly
        wrong, if what is left over after the fit asks for it.
    correlation
        Correlation of the noise of neighboring pixels, as in resampled images
        (`scorepriors.models.with_correlation`): ``"measure"``, ``"lanczos3"``, ``"drizzle:RATIO"``
        (pixfrac / scale), an array, or ``"white"``; of joined observations a tuple with one for each.
        None: what the observation says, or none; then a warning says where it is seen.
    padding
        Multiple to which stars, and galaxies in small boxes, are padded (galaxies in large boxes
        always to a multiple of two); blends of one padded size (and image and PSF shape) share
        their compiled programs.
    """

    profile: str | Callable[..., AbstractSource] = defaults.PROFILE
    spectra: str = defaults.SPECTRA
    center_error: float = 0.3
    start: str = "profiles"
    anneal: tuple[float, ...] = field(default=())
    models: str = "free-form"
    free_form: bool = True
    max_iterations: int = defaults.MAX_ITERATIONS
    tolerance: float = defaults.TOLERANCE
    noise: str = defaults.NOISE
    rescale_noise: bool = False
    subtract_sky: bool = False
    variable: tuple[str, ...] = ()
    timescale: float | None = None
    moving: tuple[str, ...] = ()
    sky: str | None = "auto"
    outliers: bool = True
    model_error: bool = True
    correlation: Any = None
    padding: int = 4

    @classmethod
    def of(cls, keywords: dict[str, Any]) -> "Options":
        """Return options from keywords; TypeError with a list of valid ones for others."""
        known = [one.name for one in fields(cls)]
        for name in keywords:
            if name not in known:
                raise TypeError(
                    f"unknown option {name!r} of a deblending; there are {', '.join(known)}."
                )
        return cls(**keywords)

    def __post_init__(self):
        if not self.tolerance > 0:
            raise InputError(f"`tolerance` must be positive, got {self.tolerance}.")
        if self.start not in STARTS:
            raise InputError(f"unknown start {self.start!r}; there are {', '.join(STARTS)}.")
        if self.models not in MODELS:
            raise InputError(f"`models` must be one of {', '.join(MODELS)}, got {self.models!r}.")
        if self.noise not in NOISES:
            raise InputError(f"`noise` must be one of {', '.join(NOISES)}, got {self.noise!r}.")
        object.__setattr__(self, "sky", "none" if self.sky is None else self.sky)
        if self.sky not in SKY:
            raise InputError(f"`sky` must be one of {', '.join(SKY)}, got {self.sky!r}.")
        if isinstance(self.profile, str) and self.profile not in PROFILES:
            raise InputError(f"unknown profile {self.profile!r}; there are {', '.join(PROFILES)}.")
        if self.spectra not in TREATMENTS[:2]:
            raise InputError(
                f"`spectra` must be one of {', '.join(TREATMENTS[:2])}, got {self.spectra!r}."
            )
        object.__setattr__(self, "anneal", tuple(self.anneal))
        for field_ in ("variable", "moving"):
            given = getattr(self, field_)
            names = (given,) if isinstance(given, str) else given
            object.__setattr__(self, field_, tuple(map(str, names)))
        if self.timescale is not None and not self.timescale > 0:
            raise InputError(f"`timescale` must be positive, got {self.timescale}.")
        object.__setattr__(self, "correlation", _plain(self.correlation))

    @property
    def has_free_forms(self) -> bool:
        """Whether any galaxy may get a free form."""
        return self.free_form and self.models != "profiles"


def _plain(correlation: Any) -> Any:
    """Return a correlation as words or nested tuples of numbers, which compare and can be written."""
    if isinstance(correlation, str):
        if correlation.strip().lower() != "measure":
            correlation_of(correlation)
        return correlation
    if is_list(correlation):
        return tuple(map(_plain, correlation))
    if correlation is None:
        return None
    try:
        found = np.asarray(correlation)
    except ValueError as error:
        raise InputError(f"`correlation` is {WORDS}, not a ragged list.") from error
    if found.dtype.kind not in "fiu" or found.ndim not in (2, 3):
        raise InputError(
            f"`correlation` is {WORDS}, of the shape [k, k] or [bands, k, k]; got {correlation!r:.60}."
        )

    def nested(values):
        return tuple(map(nested, values)) if isinstance(values, list) else values

    return nested(found.tolist())


@dataclass(frozen=True)
class Settings:
    """Options and priors that all blends of a call share.

    Attributes
    ----------
    options
        Options of the call.
    priors
        Priors of the free-form scene: one, or a second with larger boxes.
    """

    options: Options
    priors: tuple[ScorePrior, ...]

    def __post_init__(self):
        prior, levels = self.priors[0], self.options.anneal
        if not all(prior.sigma < level <= prior.sigma_max for level in levels):
            raise InputError(
                f"noise levels in `anneal` must lie above the prior's own, {float(prior.sigma):g}, and "
                f"be at most {float(prior.sigma_max):g}, the largest it has learned; got {levels}."
            )

    @property
    def boxes(self) -> tuple[int, ...]:
        """Sides of the boxes of free-form sources."""
        return tuple(prior.event_shape[-1] for prior in self.priors)

    @property
    def wide_box(self) -> int:
        """Side of the boxes of wide galaxies."""
        return max(WIDE_BOX, 2 * self.boxes[-1])

    @property
    def psf_sigma(self) -> float:
        """Standard deviation of the model's PSF, pixels."""
        sigma = self.priors[0].model_psf_sigma
        return UNRESOLVED if sigma is None else sigma

    @property
    def spoil(self) -> Spoil:
        """Deliberate errors of the start values."""
        return Spoil(20.0 if self.options.start == "sed20" else 1.0, self.options.start == "flat")

    def spectra(self, obs, seen: Sequence[Exposure], ids: Sequence[str]) -> AbstractSpectra:
        """Return the prior on the spectra of sources of these names in an observation."""
        options = self.options
        return spectra_of(obs, seen, ids, options.variable, options.timescale, options.moving)

    @property
    def two_color(self) -> bool:
        """Whether galaxies are of two parts with spectra of their own."""
        return self.options.profile in ("two-color", TwoColor)

    def profiles(self, at, name: str) -> AbstractSource:
        """Return a group of parametric galaxies."""
        profile = self.options.profile
        make = PROFILES[profile] if isinstance(profile, str) else profile
        return make(at, name, psf_sigma=self.psf_sigma, center_error=self.options.center_error)
