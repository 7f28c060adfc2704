r"""What is known of a galaxy's colors before its image is looked at.

Galaxies brighten to the red, some steeply and some hardly: over the optical their spectra are
about :math:`f_\nu \propto \lambda^\alpha` with :math:`\alpha = 1.5 \pm 1`, from star-forming
galaxies at high redshift (near 0.5) to old ones (3 and more), and breaks and lines move single
bands by a quarter or so about that.  It is a wide prior, but a faint source beside a bright one
hangs on it: told that spectra are flat, a fit gives the red light of two red galaxies to one.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

#: Mean and scatter of the power of the wavelength that f_nu goes with.
SLOPE, SLOPE_SCATTER = 1.5, 1.0

#: Relative scatter about a power law of neighboring bands together, the logarithm of the
#: wavelengths over which it is shared, and that of each band alone.
FEATURES, FEATURE_LENGTH, ALONE = 0.25, 0.25, 0.1

#: For bands of unknown wavelength: relative scatter about a spectrum flat in f_nu, the number
#: of bands over which it is shared, and the share that each band has to itself.
UNKNOWN, UNKNOWN_LENGTH, UNKNOWN_ALONE = 0.6, 2.0, 0.05


def color_prior(
    wave: Sequence[float | None], flat: Float[np.ndarray, " B"]
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, "B B"]]:
    """Mean spectrum of galaxies, and the covariance of what single ones have relative to it.

    Parameters
    ----------
    wave
        Effective wavelengths of the bands, nm; None where one is not known.
    flat
        A spectrum flat in f_nu, in the units of the image.

    Returns
    -------
    mean
        ``[B]``, sum 1, in the units of the image.
    covariance
        ``[B, B]`` of fluxes over their means, for a given sum over the bands.
    """
    if any(one is None for one in wave):
        steps = np.subtract.outer(np.arange(len(flat)), np.arange(len(flat))) / UNKNOWN_LENGTH
        shared = (1 - UNKNOWN_ALONE) * np.exp(-0.5 * steps**2)
        return flat / flat.sum(), UNKNOWN**2 * (shared + UNKNOWN_ALONE * np.eye(len(flat)))
    nm = np.asarray(wave, float)
    mean = flat * nm**SLOPE
    mean /= mean.sum()
    # About the wavelength at which a steeper spectrum of the same sum is the same.
    away = np.log(nm) - mean @ np.log(nm)
    apart = np.subtract.outer(away, away) / FEATURE_LENGTH
    covariance = SLOPE_SCATTER**2 * np.outer(away, away)
    covariance += FEATURES**2 * np.exp(-0.5 * apart**2) + ALONE**2 * np.eye(len(nm))
    return mean, covariance
