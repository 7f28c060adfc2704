"""Images to train on: simulated populations, and the user's own FITS or npz files."""

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from scorepriors._archives import read_arrays
from scorepriors._defaults import MODEL_PSF_SIGMA
from scorepriors._errors import InputError
from scorepriors._surveys import LSST, PIXEL_SCALES

from ._structured import Sizes, structured_image

#: What NumPy and astropy raise for files cut short or damaged, besides OSError.
_DAMAGED = (OSError, TypeError, ValueError, EOFError, zlib.error)


#: Sersic indices are drawn from these: GalSim keeps a table for each index it has met.
_SERSIC_INDICES = np.arange(5, 51, 5) / 10

#: Sizes of the populations with structure (`structured_image`).
STRUCTURED = {"euclid": Sizes(0.2, 0.05, 0.5), "euclid-large": Sizes(0.4, 0.1, 1.6)}


def peak_normalize(images: np.ndarray) -> np.ndarray:
    """Scale images ``[N, n, n]`` to a peak of one; raises InputError for empty ones."""
    peak = images.max(axis=(1, 2), keepdims=True)
    bad = np.flatnonzero(~(peak[:, 0, 0] > 0))
    if bad.size:
        raise InputError(
            f"training image {bad[0]} has no positive pixel; remove the {bad.size} such image(s)."
        )
    return (images / peak).astype(np.float32)


def simulate(name: str, num_images: int, *, box: int = 32, seed: int = 0) -> np.ndarray:
    """Draw galaxies of a built-in population, each with a peak of one.

    Parameters
    ----------
    name
        ``"lsst"``: bulge (n = 4) plus disk (n = 1) with sizes, axis ratios and bulge
        fractions of faint galaxies in a ten-year LSST survey, 0.2 arcsec pixels.
        ``"lsst-irregular"``: as ``"lsst"``, but the last three of every ten with lumps,
        other profiles and bulges off center.
        ``"lsst-large"``: the largest ``"lsst"`` galaxies, which do not fit into 32 pixels.
        ``"hsc"``: as ``"lsst"``, half as large again, for the brighter galaxies of HSC's
        wide survey, 0.168 arcsec pixels.
        ``"ztf"``: single Sersic profiles, half of them n = 1 and half n = 4,
        1.01 arcsec pixels, as in Sampson et al. (2024), section 3.1.
        ``"euclid"``: galaxies that a camera in space resolves, two of three with arms, bars, rings,
        clumps, dust or tails, 0.1 arcsec pixels; disks of 0.05 to 0.5 arcsec around 0.2.
        ``"euclid-large"``: the same with disks of 0.1 to 1.6 arcsec around 0.4, for boxes of 64.
    num_images
        Number of images; image i depends on `seed` and i only, so a set can be extended.
    box
        Side of the images in pixels.
    seed
        Any non-negative integer.

    Returns
    -------
    numpy.ndarray
        Images ``[num_images, box, box]``, float32, convolved with the pixel and the model PSF.

    Raises
    ------
    InputError
        If the population is unknown, the seed negative or GalSim not installed.
    """
    return np.stack(list(iter_simulated(name, range(num_images), box=box, seed=seed)))


def iter_simulated(
    name: str, indices: Iterable[int], *, box: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield the images of `simulate` one by one (for progress bars and worker pools)."""
    try:
        import galsim
    except ImportError as error:
        raise InputError(
            "simulating training images needs GalSim: pip install 'scorepriors[simulation]'."
        ) from error
    populations = {
        "lsst": lsst_galaxy,
        "lsst-irregular": irregular_lsst_galaxy,
        "lsst-large": large_lsst_galaxy,
        "hsc": hsc_galaxy,
        "ztf": ztf_galaxy,
    }
    if name not in populations and name not in STRUCTURED:
        known = ", ".join(sorted([*populations, *STRUCTURED]))
        raise InputError(f"unknown training set {name!r}; built in are {known}.")
    if seed < 0:
        raise InputError(f"`seed` must not be negative, got {seed}.")
    scale = PIXEL_SCALES[name]
    psf = galsim.Gaussian(sigma=MODEL_PSF_SIGMA * scale)
    for index in indices:
        rng = np.random.default_rng((seed, index))
        # A box is placed on whole pixels, which leaves up to half a pixel either way; the
        # margin beyond it allows for errors of catalog positions.
        if name in STRUCTURED:
            shift = rng.uniform(-0.6, 0.6, 2) * scale
            sizes = STRUCTURED[name]
            image = structured_image(galsim, rng, sizes, scale=scale, box=box, shift=shift)
        else:
            profile = populations[name](galsim, rng, index)
            shift = rng.uniform(-0.6, 0.6, 2) * scale
            profile = galsim.Convolve(profile.shift(*shift), psf)
            image = profile.drawImage(nx=box, ny=box, scale=scale, dtype=np.float32).array
        yield peak_normalize(image[None])[0]


def lsst_galaxy(galsim, rng, index=0):
    """Return bulge plus disk of a faint LSST galaxy (i of 22 to 27).

    Distributions chosen to resemble the galaxies of public LSST image simulations:
    disks of 0.05 to 1.2 arcsec around 0.25, inclined at random with a thickness of
    0.2; more than half without a bulge, few bulge-dominated; round, compact bulges.
    """
    return _bulge_disk(galsim, rng, median=0.25, largest=1.2)


def irregular_lsst_galaxy(galsim, rng, index=0):
    """Return a galaxy: seven of ten as of `lsst_galaxy`, three irregular.

    Real galaxies differ from a bulge and a disk by star-forming regions, by profiles in
    between, and by centers that do not agree.  The irregular ones, those whose index ends
    in 7, 8 or 9, have Sersic indices of 0.5, 1 or 1.5 (disk) and 1 to 5 in steps of a half
    (bulge), and bulges off the disk's center by a Gaussian 6 % of its radius on either
    axis, turned by 20 degrees; half of them have one to five lumps with 5 to 30 % of the
    disk's light.  Their center is where a catalog would put it: at the adaptive moments
    of the image.  Those that peak elsewhere are drawn again; to draw one takes five times
    as long as a smooth one.
    """
    if index % 10 < 7:
        return lsst_galaxy(galsim, rng)
    pixel = LSST.scale
    psf = galsim.Gaussian(sigma=MODEL_PSF_SIGMA * pixel)
    while True:
        profile = _bulge_disk_lumps(galsim, rng)
        image = galsim.Convolve(profile, psf).drawImage(scale=pixel / 2)
        try:
            center = image.FindAdaptiveMom().moments_centroid
        except galsim.GalSimHSMError:
            continue
        row, column = np.unravel_index(image.array.argmax(), image.array.shape)
        peak = galsim.PositionI(int(column) + image.xmin, int(row) + image.ymin)
        # A prior expects galaxies at the center.  An image that peaks elsewhere has a lump
        # brighter than all the rest, where a catalog would place the galaxy.
        if max(abs(peak.x - center.x), abs(peak.y - center.y)) < 3:
            return profile.shift((image.true_center - center) * image.scale)


def _bulge_disk_lumps(galsim, rng):
    def sersic(low, high, radius, flux):
        between = (low <= _SERSIC_INDICES) & (high >= _SERSIC_INDICES)
        index = float(rng.choice(_SERSIC_INDICES[between]))
        return galsim.Sersic(index, half_light_radius=radius, flux=flux)

    angle = rng.uniform(0, 180) * galsim.degrees
    radius = np.clip(0.27 * np.exp(0.6 * rng.standard_normal()), 0.05, 1.2)
    ratio = np.sqrt(0.2**2 + (1 - 0.2**2) * rng.uniform() ** 2)
    kind = rng.uniform()
    bulge = 0.0 if kind < 0.5 else rng.beta(0.8, 3.0) if kind < 0.9 else rng.beta(4, 1)
    in_lumps = rng.uniform(0.05, 0.3) if rng.uniform() < 0.5 else 0.0
    disk = sersic(0.5, 1.5, radius, (1 - bulge) * (1 - in_lumps))
    if in_lumps > 0:
        for share in rng.dirichlet(np.full(rng.integers(1, 6), 2.0)):
            size, flux = radius * rng.uniform(0.25, 0.5), (1 - bulge) * in_lumps * share
            # At the distances of an exponential disk's stars, but for those far out:
            # alone there a lump would be a neighbor.
            distance = radius * min(rng.gamma(2, 1 / 1.678), 1.5)
            azimuth = rng.uniform(0, 2 * np.pi)
            lump = galsim.Gaussian(half_light_radius=size, flux=flux)
            disk += lump.shift(distance * np.cos(azimuth), distance * np.sin(azimuth))
    profile = disk.shear(q=ratio, beta=angle)
    if bulge > 0:
        size = np.clip(0.55 * radius * np.exp(0.6 * rng.standard_normal()), 0.04, 0.8)
        twist = angle + 20 * rng.standard_normal() * galsim.degrees
        core = sersic(1.0, 5.0, size, bulge).shear(q=0.45 + 0.55 * rng.beta(2, 1.3), beta=twist)
        profile += core.shift(*(0.06 * radius * rng.standard_normal(2)))
    return profile


def large_lsst_galaxy(galsim, rng, index=0):
    """Return bulge plus disk of a large LSST galaxy, for boxes of 64 pixels.

    As `lsst_galaxy`, with disks of 0.25 to 2.5 arcsec around 0.7 and bulges of up to 1.6.
    """
    sizes = {"median": 0.7, "smallest": 0.25, "largest": 2.5, "largest_bulge": 1.6}
    return _bulge_disk(galsim, rng, **sizes)


def hsc_galaxy(galsim, rng, index=0):
    """Return bulge plus disk of a galaxy in HSC's wide survey (i of 19 to 26).

    As `lsst_galaxy`, with disks of 0.05 to 1.8 arcsec around 0.38.
    """
    return _bulge_disk(galsim, rng, median=0.38, largest=1.8)


def _bulge_disk(
    galsim,
    rng,
    *,
    median: float,
    largest: float,
    smallest: float = 0.05,
    largest_bulge: float = 0.8,
):
    angle = rng.uniform(0, 180) * galsim.degrees
    disk_radius = np.clip(median * np.exp(0.6 * rng.standard_normal()), smallest, largest)
    disk_ratio = np.sqrt(0.2**2 + (1 - 0.2**2) * rng.uniform() ** 2)
    kind = rng.uniform()
    bulge_fraction = 0.0 if kind < 0.5 else rng.beta(0.8, 3.0) if kind < 0.9 else rng.beta(4, 1)
    bulge_radius = np.clip(
        0.6 * disk_radius * np.exp(0.6 * rng.standard_normal()), 0.04, largest_bulge
    )
    bulge_ratio = 0.45 + 0.55 * rng.beta(2, 1.3)
    twist = angle + 10 * rng.standard_normal() * galsim.degrees
    disk = galsim.Exponential(half_light_radius=disk_radius, flux=1 - bulge_fraction)
    profile = disk.shear(q=disk_ratio, beta=angle)
    if bulge_fraction > 0:
        bulge = galsim.DeVaucouleurs(half_light_radius=bulge_radius, flux=bulge_fraction)
        profile += bulge.shear(q=bulge_ratio, beta=twist)
    return profile


def ztf_galaxy(galsim, rng, index=0):
    """Return a Sersic profile, n = 1 (even indices) or 4: nearby hosts of 1 to 8 arcsec."""
    radius = np.clip(2.5 * np.exp(0.5 * rng.standard_normal()), 0.8, 9.0)
    ratio = rng.uniform(0.25, 1.0)
    angle = rng.uniform(0, 180) * galsim.degrees
    family = galsim.DeVaucouleurs if index % 2 else galsim.Exponential
    return family(half_light_radius=radius).shear(q=ratio, beta=angle)


def read_images(path: str | Path, *, box: int | None = None) -> np.ndarray:
    """Read a user's training images: a folder, one FITS file or one npz file.

    A folder is searched for ``.fits``, ``.fit``, ``.fits.gz`` and ``.npz`` files in
    the order of their names.  Each image HDU or array may hold one image ``[n, n]``
    or a stack ``[N, n, n]``.  Larger images are cut to the central `box` pixels.

    Returns
    -------
    numpy.ndarray
        Images ``[N, box, box]``, float32, peaks scaled to one.

    Raises
    ------
    InputError
        If nothing is found, shapes disagree, or pixels are not finite.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no training images at {str(path)!r}: the path does not exist.")
    endings = (".fits", ".fit", ".fits.gz", ".npz")
    files = (
        [path]
        if path.is_file()
        else sorted(f for f in path.iterdir() if f.name.lower().endswith(endings))
    )
    stacks = [stack for file in files for stack in _read_stacks(file, box)]
    if not stacks:
        raise InputError(
            f"no images found in {str(path)!r}; expected {', '.join(endings)} with 2-D or 3-D arrays."
        )
    shapes = {stack.shape[1:] for stack in stacks}
    if len(shapes) > 1:
        raise InputError(
            f"training images in {str(path)!r} have different shapes {sorted(shapes)}; "
            "set `box` in the [data] table to cut them to one size."
        )
    images = np.concatenate(stacks)
    if not np.isfinite(images).all():
        raise InputError(f"training images in {str(path)!r} hold NaN or infinite pixels.")
    return peak_normalize(images)


def _read_stacks(file: Path, box: int | None) -> Iterator[np.ndarray]:
    for name, array in _read_arrays(file):
        if array.ndim not in (2, 3) or not np.issubdtype(array.dtype, np.number):
            continue
        stack = array[None] if array.ndim == 2 else array
        height, width = stack.shape[1:]
        size = min(height, width) if box is None else box
        if min(height, width) < size:
            raise InputError(
                f"{file.name} [{name}] is {height} x {width} pixels, smaller than box = {size}."
            )
        top, left = (height - size) // 2, (width - size) // 2
        yield stack[:, top : top + size, left : left + size].astype(np.float32)


def _read_arrays(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    if file.suffix.lower() == ".npz":
        yield from read_arrays(file).items()
        return
    yield from read_hdus(file, named=False).items()


def read_hdus(file: Path, *, named: bool = True) -> dict[str, np.ndarray]:
    """Return the images of a FITS file, by the names of their extensions or their numbers.

    Raises
    ------
    InputError
        If it is no FITS file, or damaged.
    """
    from astropy.io import fits

    try:
        with fits.open(file) as hdus:
            return {
                (named and hdu.name) or f"{number}": np.asarray(hdu.data)
                for number, hdu in enumerate(hdus)
                if getattr(hdu, "is_image", False) and hdu.data is not None
            }
    except _DAMAGED as error:
        raise InputError(f"{file.name} is not a readable FITS file: {error}.") from error
