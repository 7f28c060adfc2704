"""Galaxies with structure, for cameras that resolve it: arms, bars, rings, clumps, dust, twists.

A disk is drawn on a fine grid in the coordinates of its own plane, where arms are spirals and
rings are circles; a bulge, whose center no grid resolves, is drawn by GalSim.  Distributions
were chosen from what is known of galaxies in general, before any comparison with real images.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from scorepriors._defaults import MODEL_PSF_SIGMA

#: Pixels of the fine grid per pixel of the image, along an axis.
FINE = 3

#: Pixels around the image from which light is blurred into it.
MARGIN = 3

#: Share of the galaxies with nothing but a smooth bulge and disk.
SMOOTH = 0.35

_BULGE_INDICES = np.arange(2, 11) / 2


class Sizes(NamedTuple):
    """Half-light radii of disks, arcsec: median and limits of a log-normal distribution."""

    median: float
    smallest: float
    largest: float


class Structured(NamedTuple):
    """A galaxy: a disk as a function of the plane of the sky, and a bulge as a GalSim profile.

    Attributes
    ----------
    disk
        Disk, called with offsets x ``[1, n]`` and y ``[n, 1]`` from its center in arcsec; returns
        surface brightness ``[n, n]``, of a total of one.
    disk_flux
        Flux of the disk; the bulge has the rest.
    bulge
        GalSim profile; None if there is none.
    """

    disk: "_Disk"
    disk_flux: float
    bulge: Any


def structured_image(galsim, rng, sizes: Sizes, *, scale: float, box: int, shift) -> np.ndarray:
    """Draw a galaxy of a population with structure, centered where a catalog would place it.

    Parameters
    ----------
    galsim
        The module.
    rng
        Random number generator.
    sizes
        Radii of disks.
    scale
        Arcseconds per pixel.
    box
        Side of the image in pixels.
    shift
        Offset (x, y) in arcsec of its adaptive moments from the center of the image.

    Returns
    -------
    numpy.ndarray
        Image ``[box, box]`` convolved with the pixel and the model PSF.
    """
    while True:
        galaxy = draw_structured(galsim, rng, sizes)
        image = render(galsim, galaxy, scale=scale, box=box, shift=(0.0, 0.0))
        if not image.max() > 0:
            continue
        try:
            found = galsim.Image(image).FindAdaptiveMom()
        except galsim.GalSimHSMError:
            continue
        middle = galsim.Image(image).true_center
        offset = (found.moments_centroid - middle) * scale
        row, column = np.unravel_index(image.argmax(), image.shape)
        peak = np.hypot(column + 1 - found.moments_centroid.x, row + 1 - found.moments_centroid.y)
        # A prior expects galaxies at the center.  A peak far from it is a clump brighter than
        # all the rest, where a catalog would place another source.
        if peak > 1.5 + 0.25 * found.moments_sigma:
            continue
        return render(
            galsim, galaxy, scale=scale, box=box, shift=(shift[0] - offset.x, shift[1] - offset.y)
        )


def structured_profile(galsim, rng, sizes: Sizes):
    """Draw a galaxy as a GalSim profile of unit flux, for simulated blends.

    Its center, that of its adaptive moments under a narrow PSF, is at the origin.  The disk is
    interpolated on a grid of a twentieth of its half-light radius, out to ten of them.
    """
    while True:
        galaxy = draw_structured(galsim, rng, sizes)
        radius = galaxy.disk.radius
        step = radius / 20
        at = (np.arange(401) - 200) * step
        light = galaxy.disk(at[None, :], at[:, None]).astype(np.float32)
        disk = galsim.InterpolatedImage(galsim.Image(light), scale=step, flux=galaxy.disk_flux)
        profile = disk if galaxy.bulge is None else disk + galaxy.bulge
        narrow = galsim.Gaussian(half_light_radius=max(0.3 * radius, 0.05))
        image = galsim.Convolve(profile, narrow).drawImage(scale=max(radius, 0.1) / 5)
        try:
            center = image.FindAdaptiveMom().moments_centroid
        except galsim.GalSimHSMError:
            continue
        return profile.shift(-(center - image.true_center) * image.scale)


def render(galsim, galaxy: Structured, *, scale: float, box: int, shift) -> np.ndarray:
    """Return the image ``[box, box]`` of a galaxy at an offset (x, y) in arcsec."""
    side = (box + 2 * MARGIN) * FINE
    step = scale / FINE
    at = (np.arange(side) - (side - 1) / 2) * step
    fine = galaxy.disk(at[None, :] - shift[0], at[:, None] - shift[1]) * step**2
    # A sum of points lacks the width of the fine pixels, which a wider Gaussian makes up for.
    fine = gaussian_filter(fine, np.sqrt((MODEL_PSF_SIGMA * FINE) ** 2 + 1 / 12), truncate=5.0)
    blocks = fine.reshape(box + 2 * MARGIN, FINE, box + 2 * MARGIN, FINE).sum((1, 3))
    image = galaxy.disk_flux * blocks[MARGIN:-MARGIN, MARGIN:-MARGIN]
    if galaxy.bulge is not None:
        psf = galsim.Gaussian(sigma=MODEL_PSF_SIGMA * scale)
        bulge = galsim.Convolve(galaxy.bulge.shift(*shift), psf)
        image = image + bulge.drawImage(nx=box, ny=box, scale=scale, dtype=float).array
    return image.astype(np.float32)


def draw_structured(galsim, rng, sizes: Sizes) -> Structured:
    """Draw a galaxy: one in three smooth, the others with one or several kinds of structure."""
    radius = float(
        np.clip(sizes.median * np.exp(0.6 * rng.standard_normal()), sizes.smallest, sizes.largest)
    )
    ratio = float(np.sqrt(0.15**2 + (1 - 0.15**2) * rng.uniform() ** 2))
    angle = rng.uniform(0, np.pi)
    kind = rng.uniform()
    share = 0.0 if kind < 0.35 else rng.beta(0.8, 3.0) if kind < 0.85 else rng.beta(4, 1)
    disk = _Disk(rng, radius, ratio, angle, smooth=rng.uniform() < SMOOTH)
    bulge = None
    if share > 0:
        size = np.clip(0.4 * radius * np.exp(0.5 * rng.standard_normal()), 0.03, sizes.largest)
        # Ellipticals are as large as disks, bulges of disks are smaller.
        size = size if share < 0.8 else min(2 * size, sizes.largest)
        index = float(rng.choice(_BULGE_INDICES))
        axis = 0.45 + 0.55 * rng.beta(2, 1.3)
        turned = (angle + np.radians(12) * rng.standard_normal()) * galsim.radians
        bulge = galsim.Sersic(index, half_light_radius=size, flux=share).shear(q=axis, beta=turned)
        if not disk.smooth:
            bulge = bulge.shift(*(0.04 * radius * rng.standard_normal(2)))
    return Structured(disk, 1 - share, bulge)


class _Disk:
    """Surface brightness of a disk with what its plane holds, of a total of one."""

    def __init__(self, rng, radius: float, ratio: float, angle: float, *, smooth: bool):
        self.radius, self.ratio, self.angle, self.smooth = radius, ratio, angle, smooth
        self.index = float(rng.uniform(0.6, 1.4))
        self.seed = int(rng.integers(2**31))
        self.has = {
            "arms": not smooth and rng.uniform() < 0.5,
            "bar": not smooth and rng.uniform() < 0.35,
            "ring": not smooth and rng.uniform() < 0.15,
            "clumps": not smooth and rng.uniform() < 0.6,
            "texture": not smooth and rng.uniform() < 0.4,
            "dust": not smooth and rng.uniform() < (0.6 if ratio < 0.4 else 0.1),
            "lopsided": not smooth and rng.uniform() < 0.4,
            "tail": not smooth and rng.uniform() < 0.08,
            "twist": not smooth and rng.uniform() < 0.3,
        }

    def __call__(self, x, y) -> np.ndarray:
        # Drawn anew from the same seed each time, so that a galaxy can be moved.
        rng = np.random.default_rng(self.seed)
        re, has = self.radius, self.has
        along = x * np.cos(self.angle) + y * np.sin(self.angle)
        across = (y * np.cos(self.angle) - x * np.sin(self.angle)) / self.ratio
        r, azimuth = np.hypot(along, across), np.arctan2(across, along)
        if has["twist"]:
            azimuth = azimuth + rng.normal(0, 0.35) * np.log1p(r / re)
            along, across = r * np.cos(azimuth), r * np.sin(azimuth)
            across = across * rng.uniform(1.0, 1.4)
            r, azimuth = np.hypot(along, across), np.arctan2(across, along)
        light = _unit(_sersic(r / re, self.index))
        if has["arms"]:
            light = _unit(light * _arms(rng, r / re, azimuth))
        if has["texture"]:
            light = _unit(light * _texture(rng, along / re, across / re))
        if has["lopsided"]:
            tilt = rng.uniform(0.05, 0.4) * np.cos(azimuth - rng.uniform(0, 2 * np.pi))
            light = _unit(light * (1 + tilt * np.minimum(r / re, 2.0)).clip(0.1))
        parts = [light]
        shares = [1.0]
        if has["bar"]:
            parts.append(_bar(rng, along / re, across / re))
            shares.append(rng.uniform(0.05, 0.25))
        if has["ring"]:
            middle, width = rng.uniform(0.5, 1.6), rng.uniform(0.1, 0.3)
            parts.append(np.exp(-0.5 * ((r / re - middle) / width) ** 2))
            shares.append(rng.uniform(0.05, 0.35))
        if has["clumps"]:
            parts.append(_clumps(rng, x, y, re, self.ratio, self.angle, np.diff(x[0, :2])[0]))
            shares.append(rng.uniform(0.03, 0.4))
        if has["tail"]:
            parts.append(_tail(rng, r / re, azimuth))
            shares.append(rng.uniform(0.05, 0.2))
        units = [share * _unit(part) for share, part in zip(shares, parts, strict=True)]
        total = np.sum(units, axis=0)
        if has["dust"]:
            total = total * _dust(rng, along / re, across * self.ratio / re, self.ratio)
        # The light outside the grid is not counted: an image has a peak of one in the end.
        return _unit(total) / np.diff(x[0, :2])[0] ** 2


def _unit(image: np.ndarray) -> np.ndarray:
    return image / max(float(image.sum()), 1e-30)


def _sersic(r, index: float):
    """Return a Sersic profile; b_n to a thousandth for indices of 0.5 and more (Ciotti 1999)."""
    b = 2 * index - 1 / 3 + 4 / (405 * index) + 46 / (25515 * index**2)
    return np.exp(-b * (r ** (1 / index) - 1))


def _arms(rng, r, azimuth):
    """Return the factor of logarithmic spirals, one where there are none."""
    number = int(rng.choice([1, 2, 2, 2, 2, 3, 4]))
    pitch = np.radians(rng.uniform(8, 40)) * rng.choice([-1, 1])
    sharpness, strength = rng.uniform(0.5, 3.0), rng.uniform(0.4, 2.5)
    phase = number * (azimuth - np.log(np.maximum(r, 0.05)) / np.tan(pitch) - rng.uniform(0, 7))
    crest = np.exp(sharpness * (np.cos(phase) - 1))
    onset = r**2 / (r**2 + rng.uniform(0.2, 0.7) ** 2)
    return 1 + strength * onset * (crest - crest.mean())


def _texture(rng, u, v):
    """Return a log-normal field: patches of a tenth to a third of the radius in the plane."""
    amplitude, number = rng.uniform(0.15, 0.5), 24
    # Waves of random directions give a smooth field at any coordinates.
    wave = 2 * np.pi / rng.uniform(0.25, 0.9, number)
    direction, phase = rng.uniform(0, 2 * np.pi, (2, number))
    field = np.zeros_like(u)
    for k, d, p in zip(wave, direction, phase, strict=True):
        field += np.cos(k * (u * np.cos(d) + v * np.sin(d)) + p)
    return np.exp(amplitude * field * np.sqrt(2 / number))


def _bar(rng, u, v):
    length, ratio, turn = rng.uniform(0.3, 0.9), rng.uniform(0.15, 0.4), rng.uniform(0, np.pi)
    a, b = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    return np.exp(-0.7 * ((a / length) ** 2 + (b / (ratio * length)) ** 2))


def _clumps(rng, x, y, re: float, ratio: float, angle: float, step: float):
    """Return round clumps, at the distances of an exponential disk's stars but not far out."""
    number = int(np.exp(rng.uniform(0, np.log(25))))
    light = np.zeros(np.broadcast_shapes(x.shape, y.shape))
    for share in rng.dirichlet(np.full(number, 1.5)):
        size = max(re * rng.uniform(0.04, 0.3), step)
        distance = re * min(rng.gamma(2, 1 / 1.678), 1.8)
        azimuth = rng.uniform(0, 2 * np.pi)
        a, b = distance * np.cos(azimuth), ratio * distance * np.sin(azimuth)
        dx = x - (a * np.cos(angle) - b * np.sin(angle))
        dy = y - (a * np.sin(angle) + b * np.cos(angle))
        light += share / size**2 * np.exp(-0.5 * dx**2 / size**2) * np.exp(-0.5 * dy**2 / size**2)
    return light


def _tail(rng, r, azimuth):
    """Return an arc that leaves the disk, as of a merger."""
    start, reach = rng.uniform(0.8, 1.3), rng.uniform(1.0, 3.0)
    turned = np.mod(rng.choice([-1, 1]) * azimuth + rng.uniform(0, 7), 2 * np.pi)
    ridge = start + reach * turned / (2 * np.pi)
    fading = np.exp(-turned / rng.uniform(0.8, 2.0))
    return fading * np.exp(-0.5 * ((r - ridge) / rng.uniform(0.12, 0.3)) ** 2)


def _dust(rng, u, height, ratio: float):
    """Return the transmission of a lane along the major axis, a little off the center."""
    depth, width = rng.uniform(0.3, 1.5), rng.uniform(0.06, 0.2) * max(ratio, 0.3)
    middle = rng.choice([-1, 1]) * rng.uniform(0, 0.25) * max(ratio, 0.3)
    lane = np.exp(-0.5 * ((height - middle) / width) ** 2 - 0.5 * (u / 1.5) ** 2)
    return np.exp(-depth * lane)
