r"""Prior knowledge about the colors of galaxies.

Galaxies are brighter in the red, to different degrees: over the optical their spectra are
about :math:`f_\nu \propto \lambda^\alpha` with :math:`\alpha = 1.5 \pm 1`, from star-forming
galaxies at high redshift (near 0.5) to old ones (3 and more), and breaks and lines change single
bands by about a quarter.  The prior is wide, but a faint source beside a bright one depends on
it: with a prior of flat spectra, a fit assigns the red light of two red galaxies to one.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

#: Mean and scatter of the power alpha of the wavelength in f_nu.
SLOPE, SLOPE_SCATTER = 1.5, 1.0

#: Relative scatter about a power law that neighboring bands share, its correlation length in
#: the logarithm of the wavelength, and the scatter of each band alone.
FEATURES, FEATURE_LENGTH, ALONE = 0.25, 0.25, 0.1

#: Mean of the power by which bulges are redder than their disks: a third of a magnitude between g and i.
REDDER = 0.6

#: For bands of unknown wavelength: relative scatter about a spectrum flat in f_nu, its
#: correlation length in bands, and the share of it that is independent in each band.
UNKNOWN, UNKNOWN_LENGTH, UNKNOWN_ALONE = 0.6, 2.0, 0.05


def color_prior(
    wave: Sequence[float | None], flat: Float[np.ndarray, " B"]
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, "B B"]]:
    """Return the mean spectrum of galaxies, and the covariance of single ones relative to it.

    Parameters
    ----------
    wave
        Effective wavelengths of the bands in nm, None for unknown ones.
    flat
        Spectrum flat in f_nu, in the units of the image.

    Returns
    -------
    mean
        Mean spectrum ``[B]``, sum 1, in the units of the image.
    covariance
        Covariance ``[B, B]`` of fluxes over their means, for a given sum over the bands.
    """
    if any(one is None for one in wave):
        steps = np.subtract.outer(np.arange(len(flat)), np.arange(len(flat))) / UNKNOWN_LENGTH
        shared = (1 - UNKNOWN_ALONE) * np.exp(-0.5 * steps**2)
        return flat / flat.sum(), UNKNOWN**2 * (shared + UNKNOWN_ALONE * np.eye(len(flat)))
    nm = np.asarray(wave, float)
    mean = flat * nm**SLOPE
    mean /= mean.sum()
    # Relative to the wavelength at which spectra of one sum but different slopes intersect.
    away = np.log(nm) - mean @ np.log(nm)
    apart = np.subtract.outer(away, away) / FEATURE_LENGTH
    covariance = SLOPE_SCATTER**2 * np.outer(away, away)
    covariance += FEATURES**2 * np.exp(-0.5 * apart**2) + ALONE**2 * np.eye(len(nm))
    return mean, covariance


def bulge_tilt(
    wave: Sequence[float | None], mean: Float[np.ndarray, " B"]
) -> Float[np.ndarray, " B"]:
    """Return how much more of a band's flux bulges have than disks of the same mean, relative to it.

    Parameters
    ----------
    wave
        Effective wavelengths of the bands in nm; zero where one is unknown, None.
    mean
        Mean spectrum, sum 1: the tilt does not change the sum over the bands.
    """
    if any(one is None for one in wave):
        return np.zeros(len(wave))
    nm = np.log(np.asarray(wave, float))
    return REDDER * (nm - np.asarray(mean) @ nm)
