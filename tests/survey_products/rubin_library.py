"""Write the files of tests/data/products with lsst-images, which needs Python 3.12.

Run as ``python tests/survey_products/rubin_library.py`` from the root of the repository.
"""

import sys
from pathlib import Path

import astropy.units as u
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from lsst.images import YX, Box, Image, Mask, MaskPlane, MaskSchema, SkyProjection, TractFrame
from lsst.images import fits as lsst_fits
from lsst.images.cells import CellCoadd, CellGrid, CellGridBounds, CellPointSpreadFunction

from survey_products import scene

#: Planes of a coadd, in their order.
PLANES = (
    "NO_DATA",
    "INTERPOLATED",
    "COSMIC_RAY",
    "SATURATED",
    "DETECTION_EDGE",
    "CLIPPED",
    "REJECTED",
    "DETECTED",
    "INEXACT_PSF",
)
#: The corner of the image in its tract: column, row.
CORNER = (3000, 6000)
CELL = (24, 28)


def cells():
    """PSFs of the four cells: the upper right one is that of the galaxy, wider by a tenth."""
    widths = scene.PSF_SIGMA * np.array([[1.0, 1.0], [1.0, 1.1]])
    return np.array([[scene.psf_image(15, w) for w in row] for row in widths], np.float64)


def write_coadd(path):
    """Write a coadd of 2 x 2 cells."""
    images, deviation, _ = scene.draw(sigma=20.0, seed=11)
    x0, y0 = CORNER
    height, width = scene.SHAPE
    box = Box.factory[y0 : y0 + height, x0 : x0 + width]
    frame = TractFrame(skymap="lsst_cells_v2", tract=5063, bbox=Box.factory[0:20000, 0:20000])
    projection = SkyProjection.from_fits_wcs(scene.wcs(0.2), frame, x0=x0, y0=y0)
    schema = MaskSchema([MaskPlane(name, name.lower()) for name in PLANES])
    mask = Mask(schema=schema, bbox=box, sky_projection=projection)
    flags = {name: np.zeros(scene.SHAPE, bool) for name in PLANES}
    flags["SATURATED"][scene.BAD] = True
    flags["DETECTED"][scene.HARMLESS] = True
    flags["INTERPOLATED"][scene.HARMLESS] = True
    flags["COSMIC_RAY"][30:40, 30:45] = True
    flags["NO_DATA"][:2, :3] = True
    variance = deviation[0].astype(np.float32) ** 2
    variance[:2, :3] = np.inf
    pixels = images[0].astype(np.float32)
    pixels[:2, :3] = np.nan
    for name, where in flags.items():
        mask.set(name, where)
    grid = CellGrid(bbox=box, cell_shape=YX(*CELL))
    coadd = CellCoadd(
        Image(pixels, bbox=box, unit=u.nJy, sky_projection=projection),
        mask=mask,
        variance=Image(variance, bbox=box, unit=u.nJy**2),
        mask_fractions={"SAT": Image(flags["SATURATED"].astype(np.float32), bbox=box)},
        noise_realizations=[
            Image(
                (deviation[0] * np.random.default_rng(5).normal(size=scene.SHAPE)).astype("f4"),
                bbox=box,
            )
        ],
        band="r",
        psf=CellPointSpreadFunction(cells(), CellGridBounds(grid=grid, bbox=box)),
    )
    path.unlink(missing_ok=True)
    lsst_fits.write(coadd, path)


if __name__ == "__main__":
    folder = Path(__file__).parents[1] / "data" / "products"
    folder.mkdir(exist_ok=True)
    write_coadd(folder / "rubin-dp2-coadd.fits")
