"""Priors of images smaller than their box."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import gaussian_prior
from numpyro.distributions import biject_to

from scorepriors import InputError, Padded


@pytest.fixture
def prior():
    return gaussian_prior()


def test_density_is_that_of_the_image_in_a_blank_box(prior, key):
    box = prior.event_shape[-1]
    small = Padded(prior, (box - 3, box - 2))
    images = jax.random.uniform(key, (2, box - 3, box - 2))
    whole = jnp.zeros((2, box, box)).at[:, 1 : box - 2, 1 : box - 1].set(images)
    np.testing.assert_allclose(small.log_prob(images), prior.log_prob(whole), rtol=1e-6)
    assert (small.event_shape, small.batch_shape) == ((box - 3, box - 2), ())
    score = jax.grad(small.log_prob)(images[0])
    np.testing.assert_allclose(score, prior.score(whole)[0, 1 : box - 2, 1 : box - 1], rtol=1e-5)


def test_the_whole_box_is_the_prior(prior, key):
    image = jax.random.uniform(key, prior.event_shape)
    np.testing.assert_array_equal(
        Padded(prior, prior.event_shape).log_prob(image), prior.log_prob(image)
    )


def test_it_is_a_tree_and_its_support_that_of_the_stretch(prior, key):
    small = Padded(prior, (5, 5))
    image = biject_to(small.support)(jax.random.normal(key, (5, 5)))
    assert (image > -prior.stretch.softening).all()
    again = jax.tree.unflatten(*reversed(jax.tree.flatten(small)))
    np.testing.assert_array_equal(again.log_prob(image), small.log_prob(image))
    traced = jax.jit(lambda one, x: one.log_prob(x))(small, image)
    np.testing.assert_allclose(traced, small.log_prob(image), rtol=1e-6)


@pytest.mark.parametrize("shape", [(9, 3), (3, 100), (0, 3)])
def test_images_that_do_not_fit(prior, shape):
    with pytest.raises(InputError, match=r"do not fit into the 8 x 8 of .*larger box"):
        Padded(prior, shape)


def test_it_is_not_drawn_from(prior, key):
    with pytest.raises(InputError, match="cannot be drawn from directly"):
        Padded(prior, (3, 3)).sample(key)
