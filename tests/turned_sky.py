"""Two round galaxies seen by cameras that are turned against each other."""

import numpy as np
from astropy.wcs import WCS, Sip

from scorepriors.models import Observation, Positions
from scorepriors.models.rendering._psf import gaussian_psf

#: Places in pixels of the first camera, and fluxes in the bands r, i and J.
CENTER = np.array([[9.0, 9.5], [12.5, 13.0]])
FLUX = np.array([[300.0, 400.0, 500.0], [260.0, 200.0, 150.0]])

#: Variance of the galaxies' own light, in pixels of the first camera.
WIDTH = 1.5

#: Arcseconds per pixel of the first camera.
SIDE = 0.2


def sky(scale, shape, turn=0.0, *, mirror=False, shear=0.0, bend=None, kind="TAN"):
    """A WCS about one point of the sky; `bend` is a coefficient of SIP, per pixel."""
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    matrix = np.array([[c, -s], [s, c]]) @ [[1, shear], [0, 1]]
    wcs.wcs.cd = matrix @ np.diag([1 if mirror else -1, 1]) * scale / 3600
    wcs.wcs.crval = [10.0, 2.0]
    wcs.wcs.ctype = [f"RA---{kind}", f"DEC--{kind}"]
    if bend is not None:
        a, b = np.zeros((3, 3)), np.zeros((3, 3))
        a[2, 0], b[1, 1], b[0, 2] = bend, -bend, bend / 2
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
        wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.wcs.set()
    return wcs


def north_east(wcs, pixels):
    """Arcseconds north and east of the point of the sky, from pixels (row, column)."""
    ra, dec = wcs.all_pix2world(pixels[..., 1], pixels[..., 0], 0)
    return np.stack([(dec - 2) * 3600, (ra - 10) * np.cos(np.radians(2.0)) * 3600], -1)


def slope_of(wcs, pixel):
    """Derivatives of arcseconds north and east by row and column."""
    steps = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
    ends = north_east(wcs, np.asarray(pixel) + steps)
    return np.stack([ends[0] - ends[1], ends[2] - ends[3]], 1)


def camera(scale, shape, turn=0.0, *, mirror=False):
    """WCS of a camera that looks at the point of the sky; `scale` in pixels of the first."""
    return sky(scale * SIDE, shape, turn, mirror=mirror)


def view(scale, shape, sigma, bands, flux, *, turn=0.0, mirror=False, seed=0, noise=1.0):
    """The galaxies through a Gaussian PSF of `sigma` pixels; variances of one are claimed."""
    wcs, first = camera(scale, shape, turn, mirror=mirror), camera(1.0, (22, 22))
    images = noise * np.random.default_rng(seed).normal(size=(len(bands), *shape))
    rows, columns = np.indices(shape)
    places = wcs.world_to_pixel(first.pixel_to_world(CENTER[:, 1], CENTER[:, 0]))
    for column, row, each in zip(*places, flux, strict=True):
        variance = WIDTH / scale**2 + sigma**2 + 1 / 12
        squared = (rows - row) ** 2 + (columns - column) ** 2
        blob = np.exp(-squared / 2 / variance) / (2 * np.pi * variance)
        images += np.asarray(each)[:, None, None] * blob
    return Observation.from_arrays(
        images,
        variance=np.ones_like(images),
        bands=bands,
        wcs=wcs,
        zero_point=31.4,
        psfs=np.stack([gaussian_psf(sigma, 17)] * len(bands)),
        name=f"{scale:g}",
    )


def positions():
    """The galaxies, as galaxies."""
    return Positions(("a", "b"), CENTER, np.zeros(2, bool))
