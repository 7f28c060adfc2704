"""What an observation says of the star, the galaxy and the pixels of a product's file.

``python -m survey_products.measure`` from the folder of the tests prints the table of products.
"""

import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from . import scene
from .layouts import MAGGY, MAKERS
from .scene import Made


@dataclass
class Measured:
    """Measurements beside the truth."""

    #: Flux in nJy over the true one, ``[2, B]``; that of the file's unit if not calibrated.
    ratio: np.ndarray
    #: Largest distance of the two positions from the true ones, on the sky, pixels.
    offset: float
    #: Pixels that are masked and should not be, and the other way round.
    wrongly_masked: int
    wrongly_used: int
    num_masked: int
    #: Deviation of pixels over the true one: the median, and the largest error.
    noise: float
    noise_error: float

    @property
    def magnitude_error(self):
        """Largest error of a magnitude."""
        return float(np.abs(2.5 * np.log10(self.ratio)).max())


def nanojanskys(obs):
    """Flux in nJy of one unit of the images in each band, or None."""
    if obs.zero_point is None:
        if obs.unit is None or not obs.unit.is_equivalent("nJy"):
            return None
        return np.full(len(obs.bands), obs.unit.to("nJy"))
    return MAGGY * 10 ** (-0.4 * np.array(obs.zero_point))


def fitted(image, weights, positions, sky):
    """Fluxes and positions of star and galaxy by least squares with the right shapes."""
    root = np.sqrt(np.asarray(weights, float))
    image = np.asarray(image, float)

    def solve(where):
        shapes = list(scene.templates(image.shape, where.reshape(2, 2)))
        shapes += [np.ones(image.shape)] if sky else []
        design = np.stack([(root * one).ravel() for one in shapes], 1)
        flux = np.linalg.lstsq(design, (root * image).ravel(), rcond=None)[0]
        return flux, (root * image).ravel() - design @ flux

    start = positions + 0.3
    found = least_squares(lambda where: solve(where)[1], start.ravel(), x_scale=0.1)
    return solve(found.x)[0][:2], found.x.reshape(2, 2)


def measure(made: Made, obs) -> Measured:
    """Compare an observation with the truth."""
    unit = nanojanskys(obs)
    unit = np.ones(len(obs.bands)) if unit is None else unit
    ratio, offsets = [], []
    for band in range(len(obs.bands)):
        flux, where = fitted(obs.images[band], obs.weights[band], scene.POSITIONS, made.sky)
        ratio.append(flux * unit[band] / made.fluxes[:, band])
        if obs.wcs is not None:
            # Through the sky and back by the WCS that the file was written with.
            sky = obs.wcs.pixel_to_world(*where.T)
            where = np.stack(scene.wcs(made.pixel_scale).world_to_pixel(sky), -1)
        offsets.append(np.hypot(*(where - scene.POSITIONS).T).max())
    masked = np.asarray(obs.weights) == 0
    used = ~masked & ~made.masked
    noise = np.asarray(obs.weights, float)[used] ** -0.5
    noise = noise * np.broadcast_to(unit[:, None, None], masked.shape)[used] / made.sigma[used]
    return Measured(
        np.array(ratio).T,
        float(max(offsets)),
        int((masked & ~made.masked).sum()),
        int((~masked & made.masked).sum()),
        int(masked.sum()),
        float(np.median(noise)),
        float(np.quantile(np.abs(noise - 1), 0.99)),
    )


def row(name, made, folder):
    """One line of the table of products."""
    from scorepriors.models import Observation

    try:
        files = made.files[0] if len(made.files) == 1 else made.files
        psf = None if made.has_psf else scene.psf_image()
        obs = Observation.read(files, psf, **made.arguments)
        found = measure(made, obs)
    except Exception as error:
        return f"{name} | {type(error).__name__}: {str(error)[:110]}"
    star, galaxy = found.ratio
    numbers = " ".join(f"{s:.3f}/{g:.3f}" for s, g in zip(star, galaxy))
    if nanojanskys(obs) is None:
        numbers += " (no zero point)"
    wrong = f"{found.num_masked} ({found.wrongly_masked} too many, {found.wrongly_used} missing)"
    return (
        f"{name} | {','.join(obs.bands)} | {numbers} | {found.magnitude_error:.3f} | "
        f"{found.offset:.3f} | {wrong} | {found.noise:.3f}"
    )


def main():
    warnings.simplefilter("ignore")
    print("product | bands | flux star/galaxy | mag error | px off | masked | noise")
    for name, make in MAKERS.items():
        with tempfile.TemporaryDirectory() as folder:
            print(row(name, make(Path(folder)), folder))


if __name__ == "__main__":
    sys.exit(main())
