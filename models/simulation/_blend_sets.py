"""Sets of simulated blends with truth, in one npz file.

**Layout** (``numpy.load(path, allow_pickle=False)`` reads it).  N blends of B bands and
H x W pixels; the sources of blend i are rows ``src_start[i]`` to ``src_start[i + 1]``
of every array over the S sources of the set.

- ``images [N, B, H, W]``: pixels, nJy.  ``psfs [N, B, P, P]``: effective PSFs.
- ``skyvar [N, B]``, ``gain [B]``: variance of a pixel is ``skyvar + gain * flux``, flux
  being that of the sources in the pixel.  The noise was drawn with the noiseless flux;
  `Observation.read` estimates it from the image.
- ``bands [B]``; ``src_start [N + 1]``; ``meta``, a JSON text: ``survey``, ``seed``, ``n``,
  ``sources``, ``bands``, ``scale`` (arcsec), ``zp`` (AB magnitude of one unit),
  ``model_sigma`` (pixels), ``format``, the versions of the packages that made it and, of real
  galaxies, the name and checksum of their table.
- ``sky [N, B, 3]``, of sets with a sky that is left in: its level, and half of its change along
  rows and columns, nJy per pixel.
- truth: ``centers [S, 2]`` (row, column); ``flux_total [S, B]`` and ``flux_stamp [S, B]``,
  of which the second counts only the part on the image; ``mags [S, B]``; ``conv
  [S, B, H, W]``, each source as observed without noise; ``morph [S, H, W]``, its shape at
  the model's resolution with a total flux of one; ``beta [S]``, blendedness (Sampson et
  al. 2024, eq. 16); ``snr [S]``, of all bands against the noise of the sky alone.

A blend of five LSST galaxies takes about 0.8 MB, in the file and in memory.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from scorepriors import __version__
from scorepriors._archives import write_arrays
from scorepriors._defaults import MODEL_PSF_SIGMA
from scorepriors._errors import InputError
from scorepriors._progress import Progress, reporting
from scorepriors._surveys import ZERO_POINT, Camera, Galaxies, Survey, flux_of, survey
from scorepriors.models.data._correlations import correlation_of
from scorepriors.models.data._observation import Observation
from scorepriors.models.data.readers._files import load_npz
from scorepriors.models.data.readers._npz_files import read_from_set
from scorepriors.models.noise._correlation import draw_correlated
from scorepriors.models.noise._sky import sky_templates
from scorepriors.training._sets import STRUCTURED, lsst_galaxy, ztf_galaxy
from scorepriors.training._structured import structured_profile

from ._real_galaxies import RealGalaxies
from ._simulation import (
    closest,
    colors,
    draw,
    image_middle,
    import_galsim,
    model_psf,
    photon_variance,
    psf_images,
    psf_profile,
)

#: Image side, pixels.
SIDE = 64

#: Smallest signal to noise (all bands, against the sky) of galaxies in a catalog.
MIN_SNR = 5.0

#: Logarithm of number counts per magnitude, as observed for galaxies of i = 20 to 26.
COUNTS_SLOPE = 0.3

#: Decades of size per magnitude: galaxies of i = 22 have about twice the radius of i = 25.
SIZE_SLOPE = -0.1

# Random streams other than those of training images, which hash (seed, index) alone.
_STREAM, _SKY = 6, 7

_TRUTH = ("centers", "src_start", "conv", "flux_stamp", "flux_total", "skyvar", "gain")


def blendedness(convolved: np.ndarray) -> np.ndarray:
    r"""Return the share of other sources in the light at each source (eq. 16).

    :math:`\beta_k = 1 - S_k \cdot S_k / (S \cdot S_k)` with images summed over bands and
    :math:`S = \sum_k S_k`; 0 for a source alone.

    Parameters
    ----------
    convolved
        Noiseless sources as observed, ``[K, B, H, W]``.
    """
    images = np.asarray(convolved, float).sum(1).reshape(len(convolved), -1)
    return 1 - np.sum(images**2, 1) / (images @ images.sum(0))


def simulate_set(
    name: str,
    number: int,
    *,
    seed: int = 0,
    sources: tuple[int, int] = (2, 8),
    galaxies: str | Path | None = None,
    sky: float = 0.0,
    gradient: float = 0.0,
    noise_correlation: str | None = None,
    progress: Progress = False,
) -> dict[str, np.ndarray]:
    """Simulate blends of a survey, as in section 4.3 of Sampson et al. (2024).

    Galaxies have magnitudes distributed as number counts, sizes that decrease with magnitude,
    one color each, and positions so close that most overlap; the PSF differs between bands
    and, slightly, between blends.

    Parameters
    ----------
    name
        Survey: ``"lsst"``, ``"hsc"``, ``"ztf"``, ``"euclid"`` or ``"hst"``.
    number
        Number of blends.  With all else equal blend i depends on `seed` and i alone, so a
        longer set begins with the shorter one.
    seed
        Any non-negative integer.
    sources
        Smallest and largest number of galaxies in a blend; all numbers are equally likely.
    galaxies
        Catalog of real galaxies in GalSim's format whose shapes are used; all else is as for
        bulges and disks.
    sky, gradient
        What is left of the sky: its level in the middle, and its change across the image in a random
        direction, in standard deviations of the sky's noise.
    noise_correlation
        Correlation of the noise of neighboring pixels, as `with_correlation` takes it by name:
        ``"lanczos3"``, ``"drizzle:RATIO"``.  Variances stay; observations do not know of it.
    progress
        True for a bar; or a function, called as ``progress(done, total, text)`` after each blend.

    Returns
    -------
    dict
        Arrays by name, for `write_set`: ``images [N, B, H, W]``, ``psfs [N, B, P, P]``, the truth
        of all sources one below the other, and what is needed to read them as observations.
        The layout stands in the documentation, under "Files in".

    Raises
    ------
    InputError
        For an unknown survey or correlation, invalid numbers, an unreadable catalog, or if GalSim is not
        installed.
    """
    facts = survey(name)
    if number < 1:
        raise InputError(f"the number of blends must be at least 1, got {number}.")
    if seed < 0:
        raise InputError(f"the seed must not be negative, got {seed}.")
    low, high = sources
    if not 1 <= low <= high:
        raise InputError(
            f"the numbers of sources {low}:{high} are none; give MIN:MAX with 1 <= MIN <= MAX."
        )
    if not (np.isfinite(sky) and np.isfinite(gradient)):
        raise InputError(f"sky and gradient must be finite numbers, got {sky} and {gradient}.")
    correlation = None if noise_correlation is None else correlation_of(noise_correlation)
    galsim = import_galsim()
    camera = facts.camera()
    real = None if galaxies is None else RealGalaxies(galaxies)
    blends = []
    with reporting(progress, f"simulating {name}", number) as report:
        for index in range(number):
            rng = np.random.default_rng((seed, index, _STREAM))
            blends.append(_blend(galsim, rng, facts, camera, real, low, high, correlation))
            if sky or gradient:
                _add_sky(blends[-1], np.random.default_rng((seed, index, _SKY)), sky, gradient)
            report(index + 1, number, "")
    counts = [len(b["centers"]) for b in blends]
    meta = {
        "survey": name,
        "seed": seed,
        "n": number,
        "sources": [low, high],
        "bands": facts.bands,
        "scale": float(facts.scale),
        "zp": ZERO_POINT,
        "model_sigma": MODEL_PSF_SIGMA,
        "format": 1,
        "scorepriors": __version__,
        "galsim": galsim.__version__,
    }
    if sky or gradient:
        meta |= {"sky": float(sky), "gradient": float(gradient)}
    if noise_correlation is not None:
        meta["noise_correlation"] = noise_correlation
    if real is not None:
        table = hashlib.sha256(real.path.read_bytes()).hexdigest()
        meta |= {"galaxies": real.path.name, "galaxies_sha256": table}
    if facts.in_codex:
        meta["surveycodex"] = version("surveycodex")
    names = ("images", "psfs", "skyvar", *(["sky"] if sky or gradient else []))
    per_blend = {name: np.stack([b.pop(name) for b in blends]) for name in names}
    per_source = {name: np.concatenate([b[name] for b in blends]) for name in blends[0]}
    return {
        "meta": np.array(json.dumps(meta)),
        "bands": np.array(list(facts.bands)),
        "gain": camera.gain,
        "src_start": np.concatenate([[0], np.cumsum(counts)]),
        **per_blend,
        **per_source,
    }


def _blend(
    galsim,
    rng,
    facts: Survey,
    camera: Camera,
    real: RealGalaxies | None,
    low: int,
    high: int,
    correlation: np.ndarray | None,
):
    shape = (SIDE, SIDE)
    count = int(rng.integers(low, high + 1))
    seeing = camera.seeing * (1 + 0.03 * rng.standard_normal(len(facts.bands)))
    # Ellipticity of one or two per cent, as of optics and tracking.
    psfs = [
        psf_profile(galsim, camera, band, width).shear(e1=e[0], e2=e[1])
        for band, (width, e) in enumerate(
            zip(seeing, 0.015 * rng.standard_normal((len(seeing), 2)), strict=True)
        )
    ]
    width = seeing.min() / facts.scale
    half = rng.uniform(1.5, 3.5) * max(width, 3.0)
    apart = closest(camera, seeing)
    centers = _places(rng, count, half, apart, facts.name) + image_middle(shape)
    galaxies = [
        _galaxy(galsim, rng, facts, camera, real, psfs, center, shape) for center in centers
    ]
    magnitudes, flux, morphology, unit = (np.stack(part) for part in zip(*galaxies, strict=True))
    convolved = unit * flux[:, :, None, None]
    total = convolved.sum(0)
    variance = photon_variance(total, camera.sky_variance / camera.gain, camera.gain)
    if correlation is None:
        noise = rng.standard_normal(total.shape)
    else:
        noise = draw_correlated(rng, total.shape, correlation)
    images = total + noise * np.sqrt(variance)
    return {
        "images": images.astype(np.float32),
        "psfs": psf_images(psfs, facts.scale).astype(np.float32),
        "skyvar": camera.sky_variance,
        "centers": centers,
        "flux_total": flux,
        "flux_stamp": convolved.sum((2, 3)),
        "mags": magnitudes,
        "snr": _snr(convolved, camera.sky_variance),
        "beta": blendedness(convolved),
        "conv": convolved.astype(np.float32),
        "morph": morphology.astype(np.float32),
    }


def _add_sky(blend: dict, rng, level: float, gradient: float) -> None:
    """Add a plane to every band of a blend, of random direction, and its coefficients ``[B, 3]``."""
    noise = np.sqrt(np.asarray(blend["skyvar"], float))
    angle = rng.uniform(0, 2 * np.pi, len(noise))
    slopes = 0.5 * gradient * np.stack([np.cos(angle), np.sin(angle)], 1)
    # The change from corner to corner along its direction is that along both axes.
    slopes /= np.abs(np.stack([np.cos(angle), np.sin(angle)], 1)).sum(1, keepdims=True)
    blend["sky"] = noise[:, None] * np.column_stack([np.full(len(noise), level), slopes])
    light = np.tensordot(blend["sky"], np.asarray(sky_templates((SIDE, SIDE), "plane"), float), 1)
    blend["images"] = blend["images"] + light.astype(np.float32)


def _places(rng, count: int, half: float, gap: float, name: str) -> np.ndarray:
    """Draw positions ``[K, 2]`` in a square about the origin, one after the other."""
    places = np.zeros((0, 2))
    for _ in range(count):
        for _ in range(500):
            place = rng.uniform(-half, half, 2)
            if (np.linalg.norm(places - place, axis=1) > gap).all():
                break
        else:
            raise InputError(f"{count} sources do not fit into one blend of {name}; ask for fewer.")
        places = np.vstack([places, place])
    return places


def _galaxy(
    galsim, rng, facts: Survey, camera: Camera, real: RealGalaxies | None, psfs, center, shape
):
    """Draw magnitudes ``[B]``, fluxes ``[B]`` and unit images of one galaxy bright enough."""
    # `survey` finds those with galaxies only.
    population: Any = facts.galaxies
    for _ in range(1000):
        magnitude = draw_magnitude(rng, *population.magnitudes)
        magnitudes = magnitude + colors(rng, 1, facts.bands)[0]
        if real is not None:
            # The center is that in the sharpest band, as a survey would measure it.
            sharpest = psfs[int(np.argmin(camera.seeing))]
            profile = real.draw(rng, magnitude, SIZE_SLOPE, sharpest, facts.scale)
        else:
            profile = bulge_and_disk(galsim, rng, population, magnitude)
        flux = flux_of(magnitudes)
        unit = draw(galsim, profile, center, psfs, shape, facts.scale)
        if _snr(unit[None] * flux[:, None, None], camera.sky_variance)[0] >= MIN_SNR:
            sharp = model_psf(galsim, facts.scale)
            morphology = draw(galsim, profile, center, [sharp], shape, facts.scale)[0]
            return magnitudes, flux, morphology, unit
    raise InputError(f"no galaxy of {facts.name} stands out of its noise; report this, please.")


def bulge_and_disk(galsim, rng, population: Galaxies, magnitude: float):
    """Draw a profile of the survey's population, with the size of galaxies of the magnitude."""
    if population.training_set == "ztf":
        profile = ztf_galaxy(galsim, rng, int(rng.integers(2)))
    elif population.training_set in STRUCTURED:
        profile = structured_profile(galsim, rng, STRUCTURED[population.training_set])
    else:
        profile = lsst_galaxy(galsim, rng)
    return profile.dilate(10 ** (SIZE_SLOPE * (magnitude - population.size)))


def draw_magnitude(rng, bright: float, faint: float, slope: float = COUNTS_SLOPE) -> float:
    """Draw a magnitude distributed as number counts with a logarithmic slope, by inversion."""
    share = 10 ** (slope * (bright - faint))
    return faint + np.log10(share + (1 - share) * rng.uniform()) / slope


def _snr(convolved: np.ndarray, sky_variance: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(convolved**2 / sky_variance[:, None, None], (1, 2, 3)))


def write_set(path: str | Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write a set of blends, atomically.

    Parameters
    ----------
    path
        File to write, ``.npz``.
    arrays
        Result of `simulate_set`.

    Returns
    -------
    pathlib.Path
        The file.
    """
    # Not compressed: noise does not compress, and the file would shrink by 8 % only.
    return write_arrays(path, arrays)


@dataclass(frozen=True)
class BlendTruth:
    """Truth of one blend of a set; the second axis of arrays is the band.

    Attributes
    ----------
    center
        Centers (row, column), ``[K, 2]``.
    flux, flux_total
        Fluxes ``[K, B]`` on the image and in total, units of the image.
    convolved
        Sources as observed, without noise, ``[K, B, H, W]``.
    weights
        Inverse of the variance that the noise was drawn with, ``[B, H, W]``.
    blendedness, snr
        Blendedness, and signal to noise of all bands, ``[K]``.
    magnitude
        AB magnitude ``[K]`` in i or, without it, the middle band; NaN if the file has none.
    morphology
        Shapes at the model's resolution with a total flux of one, ``[K, H, W]``; None if the file
        has none.
    """

    center: np.ndarray
    flux: np.ndarray
    flux_total: np.ndarray
    convolved: np.ndarray
    weights: np.ndarray
    blendedness: np.ndarray
    snr: np.ndarray
    magnitude: np.ndarray
    morphology: np.ndarray | None = None


class BlendSet:
    """A set of blends with truth, read into memory.

    Parameters
    ----------
    path
        File (npz) of the layout above; ``beta``, ``snr`` and ``mags`` may be missing.

    Attributes
    ----------
    path
        The file.
    meta
        Facts of the set, as in the file.

    Raises
    ------
    InputError
        If it is not readable, not a set, or holds no truth.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._arrays = load_npz(self.path)
        name, arrays = self.path.name, self._arrays
        if "images" not in arrays or arrays["images"].ndim != 4:
            raise InputError(f"{name} is no set of blends: it needs `images` of [N, B, H, W].")
        missing = [n for n in _TRUTH if n not in arrays]
        if missing:
            raise InputError(
                f"{name} holds no truth to compare with: {', '.join(missing)} missing; make a set "
                "with `scorepriors simulate`."
            )
        _check_layout(name, arrays)
        self.meta = _meta(name, arrays)

    def __len__(self) -> int:
        return len(self._arrays["images"])

    @property
    def max_sources(self) -> int:
        """Largest number of sources in a blend."""
        return int(np.diff(self._arrays["src_start"]).max())

    def observation(self, index: int) -> Observation:
        """Return blend `index` as `Observation.read` does, without the truth."""
        return Observation.from_arrays(**read_from_set(self.path, self._arrays, index))

    def truth(self, index: int) -> BlendTruth:
        """Return the truth of blend `index`."""
        arrays = self._arrays
        start, stop = arrays["src_start"][index : index + 2]
        convolved = arrays["conv"][start:stop]
        flux = arrays["flux_stamp"][start:stop].astype(float)
        sky = np.asarray(arrays["skyvar"][index], np.float32)[:, None, None]
        gain = np.asarray(arrays["gain"], np.float32)[:, None, None]
        variance = sky + gain * np.maximum(convolved.sum(0), 0)
        bands = [str(b) for b in arrays["bands"]] if "bands" in arrays else []
        band = bands.index("i") if "i" in bands else convolved.shape[1] // 2
        unknown = np.full(len(flux), np.nan)
        return BlendTruth(
            center=arrays["centers"][start:stop].astype(float),
            flux=flux,
            flux_total=arrays["flux_total"][start:stop].astype(float),
            convolved=convolved,
            weights=(1 / variance).astype(np.float32),
            blendedness=arrays["beta"][start:stop] if "beta" in arrays else blendedness(convolved),
            snr=arrays["snr"][start:stop] if "snr" in arrays else unknown,
            magnitude=arrays["mags"][start:stop, band] if "mags" in arrays else unknown,
            morphology=arrays["morph"][start:stop] if "morph" in arrays else None,
        )


def _check_layout(name: str, arrays: dict[str, np.ndarray]) -> None:
    """Compare the shapes of a set's arrays with each other."""
    count, bands, *shape = arrays["images"].shape
    num_sources = len(np.atleast_1d(arrays["centers"]))
    start = arrays["src_start"]
    if (
        start.dtype.kind not in "iu"
        or start.shape != (count + 1,)
        or start[0] != 0
        or np.any(np.diff(start.astype(int)) < 1)
        or start[-1] != num_sources
    ):
        raise InputError(
            f"{name}: `src_start` does not give each of {count} blends its sources, of which "
            f"`centers` has {num_sources}."
        )
    expected = {
        "skyvar": (count, bands),
        "gain": (bands,),
        "centers": (num_sources, 2),
        "conv": (num_sources, bands, *shape),
        "flux_stamp": (num_sources, bands),
        "flux_total": (num_sources, bands),
        "mags": (num_sources, bands),
        "beta": (num_sources,),
        "snr": (num_sources,),
    }
    for field, wanted in expected.items():
        if field in arrays and arrays[field].shape != wanted:
            raise InputError(
                f"{name}: `{field}` has the shape {arrays[field].shape}; {wanted} goes with the "
                "images and their sources."
            )
    if "psfs" in arrays and arrays["psfs"].ndim == 4 and len(arrays["psfs"]) != count:
        raise InputError(f"{name}: {len(arrays['psfs'])} sets of `psfs` for {count} blends.")


def _meta(name: str, arrays: dict[str, np.ndarray]) -> dict:
    """Return the facts of a set; empty if it has none."""
    try:
        meta = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
    except ValueError:
        meta = None
    if not isinstance(meta, dict):
        raise InputError(f"{name} [meta] is not a JSON object.")
    return meta


def parse_sources(text: str) -> tuple[int, int]:
    """Parse ``"2:8"`` or ``"4"`` into the smallest and largest number of sources."""
    parts: list[Any] = text.split(":")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise InputError(f"{text!r} is no range of numbers of sources; give MIN:MAX such as 2:8.")
    return numbers[0], numbers[-1]
