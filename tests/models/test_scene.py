"""Scenes as pytrees: numbers are arrays, and names are descriptive."""

import dataclasses
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import gaussian_prior

from scorepriors import InputError
from scorepriors.inference import posterior
from scorepriors.models import (
    BulgeDisk,
    FreeForm,
    Observation,
    PointSource,
    Scene,
    Sersic,
    blend,
    gaussian_psf,
    place_sources,
)
from scorepriors.models.scene._scene import stack_scenes

CENTERS = np.array([(6.0, 7.0), (11.0, 9.0)])


def observation(seed=0, bands=("g", "r"), **options):
    rng = np.random.default_rng(seed)
    images, variance = rng.normal(size=(2, 18, 16)) + 5, rng.uniform(0.5, 2, (2, 18, 16))
    psfs = np.stack([gaussian_psf(sigma, 11) for sigma in (1.2, 1.3 + 0.1 * seed)])
    return Observation.from_arrays(images, variance=variance, psfs=psfs, bands=bands, **options)


def scene_of(obs, *, center_error=0.3, shift=0.0, prior=None, treatment="marginal"):
    """One group of every kind."""
    at = place_sources(CENTERS + shift, box=8, size=3)
    error = {"center_error": center_error}
    return Scene.build(
        obs,
        treatment=treatment,
        galaxies=FreeForm(gaussian_prior() if prior is None else prior, at),
        stars=PointSource(at, **error),
        disks=BulgeDisk(at, **error),
        single=Sersic(at, **error),
    )


@pytest.fixture(scope="module")
def scene():
    return scene_of(observation())


@pytest.fixture(scope="module")
def u(scene):
    shapes = posterior(blend, scene).sites()
    return {
        site: 0.1 * jax.random.normal(jax.random.key(i), shape)
        for i, (site, shape) in enumerate(shapes.items())
    }


def log_density(scene, u):
    return posterior(blend, scene).log_density(u)


compiled = jax.jit(log_density)


def test_round_trips(scene, u):
    leaves, structure = jax.tree.flatten(scene)
    value = compiled(scene, u)
    assert np.isfinite(value)
    for again in (jax.tree.unflatten(structure, leaves), pickle.loads(pickle.dumps(scene))):
        assert isinstance(again, Scene)
        assert again.names == scene.names == ("galaxies", "stars", "disks", "single")
        assert again.exposures[0].bands == scene.exposures[0].bands
        assert [type(g) for g in again.sources] == [type(g) for g in scene.sources]
        np.testing.assert_array_equal(compiled(again, u), value)
    again = jax.tree.unflatten(structure, leaves)
    assert jax.tree.structure(again) == structure
    assert all(np.shape(a) == np.shape(b) for a, b in zip(jax.tree.leaves(again), leaves))


def test_every_number_is_a_leaf(scene):
    # What is static tells programs apart: boxes, names of groups and sites, the treatment.
    arrays = jax.tree.map(lambda a: np.asarray(a) + 1, scene)
    assert jax.tree.structure(arrays) == jax.tree.structure(scene)
    changed = jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).all(), arrays, scene))
    assert all(changed)
    assert len(changed) > 40


def test_compiled_or_not_the_same(scene, u):
    np.testing.assert_allclose(compiled(scene, u), log_density(scene, u), rtol=1e-5)


def test_scenes_of_one_shape_are_one_program(scene, u):
    traces = []

    @jax.jit
    def density(scene, u):
        traces.append(1)
        return log_density(scene, u)

    first = density(scene, u)
    others = [
        scene_of(observation(bands=("i", "z"))),
        scene_of(observation(1, name="another", zero_point=30.0)),
        scene_of(observation(scale=0.2)),
        scene_of(observation(), shift=0.4),
        scene_of(observation(), center_error=0.1),
        scene_of(observation(), prior=gaussian_prior().at(0.5)),
    ]
    values = [float(density(other, u)) for other in others]
    assert len(traces) == 1
    # Pixels of another size are the same blend; all else is another one.
    assert values[2] == first
    assert len({float(first), *values}) == len(values)
    # Bound ones as well, which is what fits and samplers compile for.
    bound = jax.jit(lambda bound, u: traces.append(1) or bound.log_density(u))
    again = [float(bound(posterior(blend, one), u)) for one in (scene, *others)]
    assert len(traces) == 2
    np.testing.assert_allclose(again, [first, *values], rtol=1e-6)
    density(scene_of(observation(), treatment="profiled"), u)
    assert len(traces) == 3


def test_stacked_scenes_are_the_single_ones(scene, u):
    scenes = [scene, scene_of(observation(1), shift=0.3, center_error=0.2)]
    stacked, axes = stack_scenes(scenes)
    two = {name: jnp.stack([value, value + 0.05]) for name, value in u.items()}
    together = jax.jit(jax.vmap(log_density, (axes, 0)))(stacked, two)
    single = [compiled(s, {n: v[i] for n, v in two.items()}) for i, s in enumerate(scenes)]
    np.testing.assert_allclose(together, single, rtol=1e-5)
    # All arrays with a leading axis, priors too.
    whole = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(a) for a in leaves]), *scenes)
    together = jax.jit(jax.vmap(log_density))(whole, two)
    np.testing.assert_allclose(together, single, rtol=1e-5)


def test_padding_goes_and_the_rest_stays(scene, u):
    bound = posterior(blend, scene)
    values = jax.jit(lambda bound, u: bound.constrain(u))(bound, u)
    trimmed, kept = scene.without_padding(values)
    assert trimmed.num_sources == 8
    assert trimmed.names == scene.names
    assert kept["galaxies/morphology"].shape == (2, 8, 8)
    assert kept["brightness"].shape == (8,)
    np.testing.assert_array_equal(kept["flux"], np.asarray(values["flux"])[scene.mask])


def test_groups_change_places_and_names_alone(scene):
    disks = scene["disks"]
    other = disks.named("others").on(place_sources(CENTERS[:1], box=12))
    assert type(other) is type(disks)
    assert (other.name, other.at.box, len(other.at)) == ("others", 12, 1)
    assert (disks.name, disks.at.box) == ("disks", 8)
    fields = {f.name for f in dataclasses.fields(disks)} - {"at", "name"}
    assert all(eqx.tree_equal(getattr(other, f), getattr(disks, f)) for f in fields)
    assert {"psf_sigma", "sites"} <= fields


def test_a_group_that_is_not_there_is_named(scene):
    with pytest.raises(InputError, match="no group 'profiles'; its groups are galaxies, stars"):
        scene["profiles"]
