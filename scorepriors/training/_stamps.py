"""Stamps as a survey has them: noisy, blurred and masked images of one galaxy each.

A file of stamps (npz, or FITS with extensions of the same names) holds

- ``images`` ``[N, n, n]``: pixels, in any unit, of one galaxy each; larger ones are cut to the box;
- ``variance`` ``[N, n, n]`` or ``sigma`` ``[N]`` or one number: noise of the pixels;
- ``psf`` ``[N, P, P]`` or ``[P, P]``: PSFs in pixels of the images, P odd, centered;
- ``mask`` ``[N, n, n]``, if there is one: true, or not zero, where a pixel is not to be used.

Pixels that are not finite, or whose variance is not, are masked too.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.fft import next_fast_len

from scorepriors._archives import read_arrays
from scorepriors._errors import InputError
from scorepriors._psfs import difference_kernels, gaussian_psf

from ._sets import read_hdus

#: Names of the arrays of a file of stamps.
NAMES = ("images", "variance", "sigma", "psf", "mask")

#: Smallest signal to noise of a stamp, that of its own pixels in a matched filter of its PSF.
MIN_SNR = 5.0

#: Sum of squares of a PSF over that of the model's, above which it counts as narrower.  A Gaussian is
#: then narrower by 3 %, and absolute values of its kernel add up to 1.3, where they should to one.
NARROW = 1.05

#: Largest relative error of a PSF made by its kernel: of a galaxy with a signal to noise of 20, the
#: least that `--from` takes, it is then as large as the noise of all pixels together.
MOST_ERROR = 0.05


class Stamps(NamedTuple):
    """Noisy stamps, ready for the likelihood.

    Attributes
    ----------
    images
        Pixels ``[N, n, n]``, float32, in units of the median noise of each stamp; zero where
        masked.
    weights
        Their inverse variances ``[N, n, n]``, zero where masked.
    kernels
        Transforms ``[M, g, g // 2 + 1]`` of the kernels from the model's PSF to those of the
        stamps, M = N or 1; see `scorepriors.training._likelihood.blurred`.
    half
        Number of pixels from the kernels' first to their middle.
    digest
        Digest of all that, for the identity of a run.
    numbers
        Their numbers ``[N]`` in the file.
    left_out
        Number of stamps of the file that are not among these.
    """

    images: np.ndarray
    weights: np.ndarray
    kernels: np.ndarray
    half: int
    digest: str
    numbers: np.ndarray
    left_out: int = 0

    def only(self, index: np.ndarray) -> "Stamps":
        """Return some of the stamps; the digest stays, since the recipe says which these are."""
        kernels = self.kernels if len(self.kernels) == 1 else self.kernels[index]
        return Stamps(
            self.images[index], self.weights[index], kernels, self.half, self.digest,
            self.numbers[index], self.left_out + len(self.images) - len(index),
        )  # fmt: skip

    def part(self, index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return images, weights and kernels of some stamps, each with a leading axis of these."""
        kernels = self.kernels
        if len(kernels) == 1:
            kernels = np.broadcast_to(kernels, (len(self.images), *kernels.shape[1:]))
        return self.images[index], self.weights[index], kernels[index]


def read_stamps(path: str | Path, box: int, model_psf_sigma: float | None) -> Stamps:
    """Read a file of noisy stamps; the layout is that of this module's first lines.

    Parameters
    ----------
    path
        An npz or FITS file.
    box
        Side to which stamps are cut, about the middle.
    model_psf_sigma
        Standard deviation in pixels of the Gaussian PSF that the prior's galaxies have.

    Raises
    ------
    InputError
        If the file or an array is missing, shapes disagree, values are impossible, or a stamp
        has no pixel or no signal; the message names the stamp.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no noisy stamps at {str(path)!r}: the path does not exist.")
    if path.is_dir():
        raise InputError(
            f"{str(path)!r} is a folder; `data.noisy` is one npz or FITS file of stamps, and "
            "`scorepriors train --from` takes the folder of a field."
        )
    arrays = read_arrays(path) if path.suffix.lower() == ".npz" else read_hdus(path)
    arrays = {name.lower(): array for name, array in arrays.items()}
    for name in ("images", "psf"):
        if name not in arrays:
            found = ", ".join(sorted(arrays)) or "none"
            raise InputError(f"{path.name} has no array `{name}`, only {found}; add it.")
    return make_stamps(
        path.name, box, model_psf_sigma, **{name: arrays.get(name) for name in NAMES}
    )


def make_stamps(
    name: str, box: int, model_psf_sigma: float | None, *, images, variance, sigma, psf, mask
) -> Stamps:
    """Check arrays of stamps, and prepare them for the likelihood; see `read_stamps`."""
    images = np.asarray(images, float)
    if images.ndim != 3 or images.shape[1] != images.shape[2] or not len(images):
        raise InputError(f"{name}: `images` must be [N, n, n], got {images.shape}.")
    num, side = images.shape[:2]
    if side < box:
        raise InputError(f"{name}: stamps of {side} pixels are smaller than `data.box` = {box}.")
    variance = _variance(name, images.shape, variance, sigma)
    good = np.isfinite(images) & np.isfinite(variance)
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != images.shape:
            raise InputError(
                f"{name}: `mask` must be {images.shape} as `images`, got {mask.shape}."
            )
        good &= mask == 0
    psf = np.asarray(psf, float)
    psf = psf[None] if psf.ndim == 2 else psf
    if psf.ndim != 3 or psf.shape[1] != psf.shape[2] or psf.shape[1] % 2 == 0:
        raise InputError(f"{name}: `psf` must be [P, P] or [N, P, P] with P odd, got {psf.shape}.")
    if len(psf) not in (1, num):
        raise InputError(f"{name}: {len(psf)} PSFs for {num} stamps; give one for each, or one.")
    total = psf.sum((1, 2))
    _no_bad(name, ~(np.isfinite(total) & (total > 0)), "PSF", "is not finite or has no light")
    cut = (side - box) // 2
    inner = (slice(None), slice(cut, cut + box), slice(cut, cut + box))
    images, variance, good = images[inner], variance[inner], good[inner]
    _no_bad(name, ~good.any((1, 2)), "stamp", "has no pixel that is not masked")
    _no_bad(name, (good & ~(variance > 0)).any((1, 2)), "stamp", "has a variance of zero or less")
    # Any unit: fluxes in watts would leave the range of float32.
    level = np.sqrt([np.median(v[g]) for v, g in zip(variance, good)])[:, None, None]
    weights = np.where(good, level**2 / np.where(good, variance, 1), 0)
    pixels = np.where(good, images / level, 0)
    psf = psf / total[:, None, None]
    if model_psf_sigma is not None:
        _no_narrow(name, psf, model_psf_sigma)
    kernels, half = _kernels(name, psf, box, model_psf_sigma)
    return Stamps(
        pixels.astype(np.float32),
        weights.astype(np.float32),
        kernels,
        half,
        _digest(pixels, weights, kernels),
        np.arange(num),
    )


def _variance(name: str, shape, variance, sigma) -> np.ndarray:
    if (variance is None) == (sigma is None):
        which = "neither" if sigma is None else "both"
        raise InputError(
            f"{name}: give `variance` or `sigma`, the noise of the pixels; got {which}."
        )
    if sigma is not None:
        sigma = np.asarray(sigma, float)
        if sigma.shape not in ((), (1,), shape[:1]):
            raise InputError(
                f"{name}: `sigma` must be one number or [{shape[0]}], got {sigma.shape}."
            )
        return np.broadcast_to(sigma.reshape(-1, 1, 1) ** 2, shape)
    variance = np.asarray(variance, float)
    if variance.shape != shape:
        raise InputError(f"{name}: `variance` must be {shape} as `images`, got {variance.shape}.")
    return variance


def _no_bad(name: str, bad: np.ndarray, kind: str, what: str, mend: str = "") -> None:
    found = np.flatnonzero(bad)
    if found.size:
        mend = (mend or f"remove the {{}} such {kind}(s)").format(found.size)
        raise InputError(f"{name}: {kind} {found[0]} {what}; {mend}.")


def _no_narrow(name: str, psfs: np.ndarray, model_psf_sigma: float) -> None:
    """Raise InputError for PSFs that are sharper than the model's.

    Their kernels ring, and yet reproduce them: `DifferenceKernels.error` does not tell.  The sum of
    squares is the mean power of all frequencies; noise of a measured PSF hardly changes it.
    """
    model = gaussian_psf(model_psf_sigma, max(psfs.shape[-1], 2 * int(5 * model_psf_sigma) + 3))
    sharper = (psfs**2).sum((1, 2)) > NARROW * ((model / model.sum()) ** 2).sum()
    what = f"is narrower than the model's, a Gaussian of {model_psf_sigma:g} pixels"
    mend = "remove the {} such PSF(s) with their stamps, or set a smaller `data.model_psf_sigma`"
    _no_bad(name, sharper, "PSF", what, mend)


def _kernels(name: str, psfs: np.ndarray, box: int, model_psf_sigma: float | None):
    """Return transforms of difference kernels, on a grid for boxes of this side."""
    reach = min(psfs.shape[-1] // 2, box - 1)  # pixels further apart share no box
    kernels, error = difference_kernels(psfs, model_psf_sigma)
    what = f"differs by more than {MOST_ERROR:.0%} from what its kernel and the model's PSF give"
    mend = "give the {} such PSF(s) with more of their wings, in more pixels"
    _no_bad(name, error > MOST_ERROR, "PSF", what, mend)
    middle = psfs.shape[-1] // 2
    kernels = kernels[:, middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    # What wraps around falls outside of the box that is cut from the middle.
    grid = next_fast_len(box + reach, real=True)
    grid = max(grid, next_fast_len(2 * reach + 1, real=True))
    return np.fft.rfft2(kernels, (grid, grid)).astype(np.complex64), reach


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, np.complex64).tobytes())
    return digest.hexdigest()[:16]
