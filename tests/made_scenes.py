"""Deblended scenes without a fit: round galaxies, exactly as the "fit" says."""

from dataclasses import replace

import equinox as eqx
import numpy as np
from astropy.wcs import WCS
from conftest import gaussian_prior

from scorepriors import ScorePrior
from scorepriors.inference._status import FitStatus
from scorepriors.inference.deblending._result import Deblended, FittedScene
from scorepriors.inference.deblending.photometry._photometry import Photometry
from scorepriors.inference.fitting._map import MAPResult
from scorepriors.models.data._observation import Observation
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.scene._exposures import exposures, galaxy_spectra
from scorepriors.models.scene._scene import Scene
from scorepriors.models.sources._bulge_disk import BulgeDisk
from scorepriors.models.sources._free_form import FreeForm
from scorepriors.models.sources._placement import place_sources


def sky():
    wcs = WCS(naxis=2)
    wcs.wcs.crpix, wcs.wcs.cdelt, wcs.wcs.crval = [20, 15], [-0.2 / 3600, 0.2 / 3600], [53, -28]
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    return wcs


def made(num=3, bands=("g", "r", "i"), *, wcs=True, shape=(32, 40), ids=None, **of_image):
    """A scene of round Gaussians, 2 px wide, exactly as the "fit" says."""
    rng = np.random.default_rng(1)
    center = np.stack([rng.uniform(10, 22, num), rng.uniform(10, 30, num)], axis=1)
    rows, columns = np.indices(shape)
    squared = (rows - center[:, :1, None]) ** 2 + (columns - center[:, 1:, None]) ** 2
    morphology = np.exp(-squared / 8) / (8 * np.pi)
    flux = np.arange(1.0, num + 1)[:, None] * np.linspace(500, 900, len(bands))
    convolved = flux[:, :, None, None] * morphology[:, None]
    images = convolved.sum(0) + rng.normal(size=(len(bands), *shape))
    obs = Observation.from_arrays(
        images,
        variance=np.ones_like(images),
        psfs=np.ones((1, 1)),
        bands=bands,
        wcs=sky() if wcs else None,
        **of_image,
    )
    fit = MAPResult(
        params={},
        values={},
        status=FitStatus.CONVERGED,
        num_iterations=np.int32(40),
        potential=1.0,
        loss_history=np.zeros(40),
        gradient_norm=0.1,
        expected_gain=np.float32(np.nan),
        seconds=1.0,
        posterior=None,
    )
    profile = {
        "profiles/offset": np.zeros((num, 2)),
        "profiles/log_radius": np.zeros(num),
        "profiles/ellipticity": np.full((num, 2), 0.1),
        "profiles/bulge_logit": np.zeros(num),
        "profiles/bulge_log_ratio": np.full(num, -1.0),
        "profiles/bulge_ellipticity": np.zeros((num, 2)),
    }
    at = place_sources(center, box=8)
    own = ScorePrior(gaussian_prior(8).energy, sigma=0.1, sigma_max=5.0, name="lsst-32")
    free_form, parametric = (
        FittedScene(
            scene=scene_of(obs, group),
            fit=replace(fit, values=values),
            morphology=morphology,
            convolved=(convolved,),
            flux=flux,
            flux_error=0.05 * flux,
            least_squares=flux,
            chi2=1.01,
            source_chi2=np.ones(num),
        )
        for group, values in ((FreeForm(own, at), {}), (BulgeDisk(at), profile))
    )
    names = tuple(map(str, range(num))) if ids is None else tuple(ids)
    positions = Positions(names, center, np.zeros(num, bool))
    found = photometry_of(flux, 0.05 * flux)
    return Deblended(obs, positions, free_form, parametric, found, {"free_form": 2.0}, None)


def photometry_of(flux, error, seen=True):
    """Photometry with independent errors ``[K, B]``."""
    num = len(flux)
    seen = np.broadcast_to(seen, flux.shape)
    flux, error = (np.where(seen, a, np.nan) for a in (flux, error))
    covariance = np.diag(error.astype(float).ravel() ** 2).reshape(*flux.shape, *flux.shape)
    return Photometry(
        flux=flux,
        covariance=covariance,
        measured=1.1 * flux,
        measured_covariance=1.5**2 * covariance,
        seen=seen,
        center_covariance=np.tile(np.diag([0.1, 0.2]) ** 2, (num, 1, 1)),
        shape_error=np.full((num, 3), 0.05),
    )


def scene_of(obs, group):
    """A scene of one group, with kernels whose worst error is known."""
    found = exposures(obs, boxes=(8,), psf_sigma=None)
    scene = Scene(found, (group,), galaxy_spectra(obs, found))
    error = np.linspace(1e-4, 3e-4, len(obs.bands))
    return eqx.tree_at(lambda s: s.exposures[0].kernels.error, scene, error)
