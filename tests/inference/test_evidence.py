"""Whether a source is a point or a galaxy, and whether there is one: cases with known answers."""

import dataclasses

import numpy as np
import pytest
from astropy.wcs import WCS
from conftest import gaussian_prior
from scipy.ndimage import gaussian_filter

from scorepriors.inference import deblend
from scorepriors.inference.deblending._evidence import Fitted, weigh, weigh_many
from scorepriors.inference.deblending._needed import made_up
from scorepriors.inference.deblending._options import Options, Settings
from scorepriors.inference.deblending._stages import prepared_exposures
from scorepriors.models import Observation, Positions, gaussian_psf, join_observations

SHAPE, PSF = (56, 56), 1.7
POINT, GALAXY, BLANK = (14.0, 14.0), (14.0, 42.0), (42.0, 28.0)
SETTINGS = Settings(Options(), (gaussian_prior(box=16),))


def scene(sources, *, noise=0.0, seed=0, shape=SHAPE):
    """Noiseless (or not) points and round Gaussians ``(place, width, flux)``, errors of one."""
    images = np.zeros((3, *shape))
    for (row, column), width, flux in sources:
        one = np.zeros(shape)
        one[int(row), int(column)] = flux
        images += gaussian_filter(one, np.hypot(PSF, width), mode="constant", truncate=8)
    images += noise * np.random.default_rng(seed).normal(size=images.shape)
    psf = gaussian_psf(PSF, 41)
    return Observation.from_arrays(
        images, variance=np.ones_like(images), psfs=psf, bands=("g", "r", "i"), wcs=sky()
    )


def sky():
    wcs = WCS(naxis=2)
    wcs.wcs.crpix, wcs.wcs.cdelt = (28, 28), (-0.2 / 3600, 0.2 / 3600)
    wcs.wcs.crval, wcs.wcs.ctype = (53.0, -28.0), ("RA---TAN", "DEC--TAN")
    return wcs


def positions(places, stars=()):
    point = np.array([i in stars for i in range(len(places))])
    return Positions(tuple(str(i + 1) for i in range(len(places))), np.array(places), point)


def weighed(obs, at, **options):
    fitted = deblend(obs, at, prior=SETTINGS.priors, free_form=False).parametric
    return weigh(obs, at, fitted, SETTINGS, **options), fitted


@pytest.mark.parametrize("stars", [(), (0, 1, 2)])
def test_a_point_a_galaxy_and_nothing(stars):
    # The answer does not depend on what they were fitted as.
    obs = scene([(POINT, 0.0, 600.0), (GALAXY, 2.5, 1500.0)])
    found, _ = weighed(obs, positions([POINT, GALAXY, BLANK], stars), star_share=0.5)
    point, galaxy, blank = found.p_star
    assert point > 0.9
    assert galaxy < 0.01
    assert 0.2 < blank < 0.8
    assert found.needed[:2].min() > 100
    assert found.needed[2] < 0
    assert found.galaxy[1] > found.point[1] + 20


def test_scenes_weighed_at_once_are_weighed_as_alone():
    first = scene([(POINT, 0.0, 600.0), (GALAXY, 2.5, 1500.0)], noise=1.0)
    other = scene([(GALAXY, 1.5, 900.0)], noise=1.0, seed=1)
    each = []
    for obs, places in (first, [POINT, GALAXY]), (other, [GALAXY]):
        at = positions(places)
        fitted = deblend(obs, at, prior=SETTINGS.priors, free_form=False).parametric
        each.append(Fitted(obs, at, fitted, np.arange(len(places))))
    # With kernels for another box, as scenes with wide galaxies have, stamps can't be stacked.
    wide = prepared_exposures(other, SETTINGS, (16, 48))
    whole = dataclasses.replace(each[1].scene.scene, exposures=wide)
    each[1] = each[1]._replace(scene=dataclasses.replace(each[1].scene, scene=whole))
    kernels = [len(one.scene.scene.exposures[0].kernels.transforms) for one in each]
    assert kernels[0] != kernels[1]
    for one, found in zip(each, weigh_many(each, SETTINGS), strict=True):
        alone = weigh(one.obs, one.positions, one.scene, SETTINGS)
        for name, value in vars(alone).items():
            np.testing.assert_allclose(getattr(found, name), value, rtol=1e-4, err_msg=name)


def test_the_evidence_of_a_point_is_that_of_its_flux():
    # Half of the squared signal to noise, less an Occam factor for seven numbers.
    flux = 600.0
    obs = scene([(POINT, 0.0, flux)])
    found, _ = weighed(obs, positions([POINT]))
    squared = float((obs.images**2 * obs.weights).sum())
    assert squared / 2 - 30 < found.point[0] < squared / 2


def test_the_share_of_stars_is_a_prior():
    obs = scene([(POINT, 0.0, 60.0)], noise=1.0)
    at = positions([POINT])
    fitted = weighed(obs, at)[1]
    few, many = (weigh(obs, at, fitted, SETTINGS, star_share=s) for s in (0.01, 0.5))
    odds = [w.p_star / (1 - w.p_star) for w in (few, many)]
    np.testing.assert_allclose(odds[1] / odds[0], 99, rtol=1e-3)


def test_two_sources_for_one_need_each_other_less():
    # A second source on the same galaxy takes half of its light; alone it would have it all.
    obs = scene([(GALAXY, 1.5, 2000.0)], noise=1.0)
    shred = (GALAXY[0] + 1.0, GALAXY[1])
    found, fitted = weighed(obs, positions([GALAXY, shred]))
    alone, _ = weighed(obs, positions([GALAXY]))
    assert (found.others > 0).all()
    assert found.needed.min() < 0.05 * alone.needed[0]
    np.testing.assert_allclose(made_up(fitted, np.arange(2))[0], found.others)
    assert alone.others[0] == pytest.approx(0, abs=1e-3 * alone.needed[0])


def test_an_edge_and_masked_pixels_tell_nothing():
    edge = (1.0, 30.0)
    obs = scene([(edge, 0.0, 800.0)])
    weights = obs.weights.copy()
    weights[:, :, 31:] = 0
    hurt = dataclasses.replace(obs, weights=weights)
    found, _ = weighed(hurt, positions([edge]), star_share=0.5)
    assert found.p_star[0] > 0.7
    assert found.needed[0] > 50


def test_a_joint_observation_adds_evidence():
    obs = scene([(POINT, 0.0, 60.0), (GALAXY, 1.5, 120.0)])
    at = positions([POINT, GALAXY])
    alone, _ = weighed(obs, at, star_share=0.5)
    second = dataclasses.replace(obs, bands=("Y", "J", "H"))
    joint = join_observations(obs, second)
    both, _ = weighed(joint, at, star_share=0.5)
    assert (both.needed > 1.5 * alone.needed).all()
    assert both.p_star[0] > alone.p_star[0] - 0.05
    assert both.p_star[1] < alone.p_star[1]
