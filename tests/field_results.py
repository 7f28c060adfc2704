"""A finished field without a fit: round galaxies and stars with known light, and its catalog."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table
from astropy.wcs import WCS

from scorepriors.inference.deblending._flags import write_flags
from scorepriors.inference.fields._result import Source
from scorepriors.models import Observation
from scorepriors.models.data._field import Field
from scorepriors.models.rendering._psf import gaussian_psf

BANDS = ("g", "r", "i")


def field_wcs(shape):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [shape[1] / 2, shape[0] / 2]
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    return wcs


def window_of(cube, row, column, height, width):
    """A part of a cube, zero beyond it."""
    out = np.zeros((len(cube), height, width), cube.dtype)
    inside, own = [], []
    for first, size, whole in zip((row, column), (height, width), cube.shape[1:], strict=True):
        start, stop = min(max(first, 0), whole), min(max(first + size, 0), whole)
        inside.append(slice(start, stop))
        own.append(slice(start - first, stop - first))
    out[:, *own] = cube[:, *inside]
    return out


@dataclass(frozen=True)
class StandInResult:
    """A result of a field, with the names of `FieldResult`."""

    field: Any
    catalog: QTable
    scenes: Table
    facts: dict
    light: np.ndarray
    sources: dict = field(default_factory=dict)
    share: np.ndarray | None = None
    sky: tuple = (0.0, 0.0, 0.0)
    noise: tuple = (1.0, 1.0, 1.0)

    def _mending(self, id):
        return np.array(self.sky), np.array(self.noise)

    def as_fitted(self, obs, row, column):
        bands = len(obs.bands)
        sky, noise = (np.array(one)[:bands, None, None] for one in (self.sky, self.noise))
        return replace(obs, images=obs.images - sky, weights=obs.weights / noise**2)

    def model(self, row, column, height, width):
        return window_of(self.light, row, column, height, width)

    def kept(self, row, column, height, width):
        share = np.ones_like(self.light) if self.share is None else self.share
        return window_of(share, row, column, height, width)

    def source(self, id):
        return self.sources[id]


def blob(shape, row, column, sigma):
    rows, columns = np.indices(shape)
    squared = (rows - row) ** 2 + (columns - column) ** 2
    return np.exp(-squared / 2 / sigma**2) / (2 * np.pi * sigma**2)


def stand_in(*, shape=(150, 140), number=12, seed=0, wcs=True, zero_point=31.4):
    """A finished field of `number` sources."""
    rng = np.random.default_rng(seed)
    ids = [f"source-{k}" for k in range(number)]
    row, column = (rng.uniform(10, size - 10, number) for size in shape)
    flux = rng.uniform(200, 4000, (number, 1)) * np.array([0.6, 1.0, 1.3])
    light, sources, size = np.zeros((3, *shape), np.float32), {}, 31
    parts = []
    for k in range(number):
        first = (int(row[k]) - size // 2, int(column[k]) - size // 2)
        inner = (row[k] - first[0], column[k] - first[1])
        parts.append((blob((size, size), *inner, 1.2), blob((size, size), *inner, 2.0), first))
    padded = np.zeros((3, shape[0] + 2 * size, shape[1] + 2 * size), np.float32)
    for (_, seen, first), own in zip(parts, flux):
        box = tuple(slice(f + size, f + 2 * size) for f in first)
        padded[:, *box] += own[:, None, None] * seen
    light[:] = padded[:, size:-size, size:-size]
    for one, (image, seen, first), own in zip(ids, parts, flux):
        box = tuple(slice(f + size, f + 2 * size) for f in first)
        observed = (own[:, None, None] * seen).astype(np.float32)
        others = padded[:, *box] - observed
        model = own[:, None, None] * image
        sources[one] = Source(one, image, first, own, model, observed, first, others)
    weights = np.ones(light.shape, np.float32)
    weights[:, 40:60, 100:120] = 0
    weights[0, :, :5] = 0
    obs = Observation.from_arrays(
        light + rng.normal(size=light.shape),
        weights=weights,
        psfs=np.stack([gaussian_psf(1.6, 15)] * 3),
        bands=BANDS,
        wcs=field_wcs(shape) if wcs else None,
        zero_point=zero_point,
        name="stand-in",
        scale=None if wcs else 0.2,
    )
    catalog = _catalog(obs, ids, row, column, flux, rng)
    scenes = Table(
        {
            "scene": [0, 1],
            "row": [0, 60],
            "column": [0, 0],
            "size": [96, 96],
            "num_sources": [number // 2, number - number // 2],
            "round": [2, 2],
            "converged": [True, True],
            "seconds": [0.5, 0.7],
            "chi2": [1.01, 0.98],
            "down_weighted": [0, 0],
        }
    )
    facts = {
        "num_sources": number,
        "num_scenes": 2,
        "seconds": {"detect": 0.4, "profiles": 1.5, "final": 3.1},
        "doubts": {},
        "settings": {"prior": "lsst-32", "workers": 1},
        "versions": {"scorepriors": "0.1.0"},
    }
    return StandInResult(Field.of(obs), catalog, scenes, facts, light, sources)


def _catalog(obs, ids, row, column, flux, rng):
    number = len(ids)
    table = QTable({"id": np.array(ids), "x": column, "y": row})
    table["x_err"] = np.full(number, 0.1) * u.pix
    table["y_err"] = np.full(number, 0.1) * u.pix
    if obs.wcs is not None:
        sky = obs.wcs.pixel_to_world(column, row).icrs
        table["ra"], table["dec"] = sky.ra.to(u.deg), sky.dec.to(u.deg)
    unit, factor = obs.flux_unit
    magnitudes = obs.magnitudes(flux)
    for b, band in enumerate(obs.bands):
        table[f"flux_{band}"] = flux[:, b] * factor[b] * unit
        table[f"flux_err_{band}"] = np.full(number, 12.5) * factor[b] * unit
        if magnitudes is not None:
            table[f"mag_{band}"] = magnitudes[:, b] * u.mag
            table[f"mag_err_{band}"] = np.full(number, 0.02) * u.mag
        table[f"flux_{band}"].info.description = f"posterior mean of the flux, band {band}"
    table["snr"] = flux.sum(1) / 20
    table["chi2"] = rng.uniform(0.8, 1.2, number).astype(np.float32)
    table["chi2"].info.description = "mean squared residual over noise where the source is seen"
    bits = np.zeros(number, np.int64)
    bits[:2] = (64 + 1, 2048)[:number]
    write_flags(table, bits, [["g"] if bit & 2048 else [] for bit in bits])
    table["group"], table["scene"] = np.arange(number) // 3, np.arange(number) % 2
    table["model"] = np.array(["point", "profile", "free-form"])[np.arange(number) % 3]
    table["p_star"] = np.where(np.arange(number) % 3 == 0, 0.98, 0.03)
    table.meta.update(prior="lsst-32", sigma0=0.15, chi2=1.0, converged=True, scorepriors="0.1.0")
    return table
