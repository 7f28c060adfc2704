"""Reference Gaussians of moves, against known matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorepriors.inference._lanczos import ritz_pairs, ritz_pairs_each
from scorepriors.inference.deblending.flow._reference import (
    CORRELATED,
    WIDER,
    Moments,
    Reference,
    reference,
    refined,
)

SIDE, GALAXIES = 4, 2
CURVATURES = np.array([400.0, 90.0, 30.0, 2.0, 0.2, -5.0])


@pytest.fixture(scope="module")
def hessians():
    rng = np.random.default_rng(0)
    out = []
    for k in range(GALAXIES):
        vectors = np.linalg.qr(rng.normal(size=(16, 16)))[0][:, : len(CURVATURES)]
        out.append(vectors @ np.diag(CURVATURES * (k + 1)) @ vectors.T)
    return np.stack(out)


@pytest.fixture(scope="module")
def point():
    return jax.random.normal(jax.random.key(1), (GALAXIES, SIDE, SIDE))


@pytest.fixture(scope="module")
def found(hessians, point):
    def product(v):
        flat = v.reshape(GALAXIES, 16)
        return jnp.einsum("gij,gj->gi", jnp.asarray(hessians, jnp.float32), flat).reshape(v.shape)

    return reference(lambda: product, point, 16, jax.random.key(0))


def moments(near: Reference):
    """Means ``[G, d]`` and covariances ``[G, d, d]`` from the arrays themselves."""
    basis, precision, place = (np.asarray(a, float) for a in near)
    eye = np.eye(basis.shape[-1])
    inverse = eye + np.einsum("gri,gr,grj->gij", basis, precision, basis)
    return np.einsum("gri,gr->gi", basis, place), np.linalg.inv(inverse)


def test_curvatures_that_outweigh_the_prior_are_kept_wider(found, hessians, point):
    mean, covariance = moments(found)
    for k in range(GALAXIES):
        values, vectors = np.linalg.eigh(hessians[k])
        kept = np.where(values / WIDER**2 > 1, values / WIDER**2, 0)
        expected = np.linalg.inv(np.eye(16) + vectors @ np.diag(kept) @ vectors.T)
        np.testing.assert_allclose(covariance[k], expected, atol=2e-3)
        inside = vectors[:, kept > 0]
        flat = np.asarray(point[k], float).ravel()
        np.testing.assert_allclose(mean[k], inside @ (inside.T @ flat), atol=2e-2)
    share = np.asarray(found.precision) / (1 + np.asarray(found.precision))
    np.testing.assert_allclose(found.freedom(), share.sum(1), rtol=1e-5)


@pytest.mark.parametrize("step", [0.3, 1.0])
def test_moves_leave_the_gaussian_as_it_is(found, step):
    mean, covariance = moments(found)
    number, rng = 20000, np.random.default_rng(2)
    root = np.linalg.cholesky(covariance)
    start = mean[:, None] + np.einsum("gij,gnj->gni", root, rng.normal(size=(2, number, 16)))
    start = jnp.asarray(start.swapaxes(0, 1).reshape(number, 2, SIDE, SIDE), jnp.float32)
    fresh = jax.random.normal(jax.random.key(3), start.shape)
    steps = jnp.full(GALAXIES, step)
    moved = jax.vmap(lambda a, b: found.move(a, b, steps))(start, fresh)
    moved = np.asarray(moved, float).reshape(number, GALAXIES, 16)
    for k in range(GALAXIES):
        white = np.linalg.solve(root[k], (moved[:, k] - mean[k]).T)
        assert np.abs(white.mean(1)).max() < 5 / number**0.5
        assert np.abs(np.cov(white) - np.eye(16)).max() < 6 / number**0.5
    overlap = np.mean(
        (np.asarray(moved)[:, 0] - mean[0])
        * (np.asarray(start).reshape(number, 2, 16)[:, 0] - mean[0]),
        0,
    )
    expected = np.sqrt(1 - step**2) * np.diag(covariance[0])
    np.testing.assert_allclose(overlap, expected, atol=6 / number**0.5)


def test_excess_is_the_prior_over_the_gaussian(found):
    mean, covariance = moments(found)
    noise = jax.random.normal(jax.random.key(4), (5, GALAXIES, SIDE, SIDE))
    excess = np.asarray(jax.vmap(found.excess)(noise), float)
    flat = np.asarray(noise, float).reshape(5, GALAXIES, 16)
    for k in range(GALAXIES):
        away = flat[:, k] - mean[k]
        own = 0.5 * np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance[k]), away)
        expected = own - 0.5 * (flat[:, k] ** 2).sum(1)
        difference = excess[:, k] - expected  # up to one constant
        np.testing.assert_allclose(difference, difference[0], rtol=1e-3, atol=2e-2)


def test_share_of_zero_is_the_prior(found, point):
    none = found.times(0)
    np.testing.assert_array_equal(none.excess(point), 0)
    fresh = jax.random.normal(jax.random.key(5), point.shape)
    np.testing.assert_allclose(none.move(point, fresh, jnp.ones(GALAXIES)), fresh, atol=1e-6)
    np.testing.assert_allclose(none.move(point, fresh, jnp.zeros(GALAXIES)), point, atol=1e-6)


def test_directions_beyond_an_exhausted_krylov_space(hessians, point):
    """Equal curvatures exhaust it early, of one galaxy before the other."""
    equal = np.stack([3.0 * np.eye(16), hessians[1]]).astype(np.float32)
    flat = jnp.asarray(point.reshape(GALAXIES, 16))
    product = jax.tree_util.Partial(jnp.einsum, "gij,gj->gi", jnp.asarray(equal))
    both = ritz_pairs_each(lambda: product, flat, 16, jax.random.key(0))
    for matrix, found in zip(equal, both, strict=True):
        np.testing.assert_allclose(found.values, np.linalg.eigvalsh(matrix), atol=1e-3)
        np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(16), atol=2e-6)
        alone = ritz_pairs(lambda v, m=matrix: m @ v, flat[0], 16, jax.random.key(0))
        np.testing.assert_allclose(alone.values, found.values, atol=1e-3)
        np.testing.assert_allclose(matrix @ alone.vectors, alone.vectors * alone.values, atol=2e-3)


def test_refined_reference_has_mean_and_covariance_of_draws(found):
    rng = np.random.default_rng(2)
    basis = np.asarray(found.basis, float)
    rank = basis.shape[1]
    center = rng.normal(size=(GALAXIES, rank))
    shape = rng.normal(size=(GALAXIES, rank, rank)) / 4 + np.eye(rank)
    number = 200_000
    along = center[:, None] + rng.normal(size=(GALAXIES, number // 100, rank)) @ shape
    sums = Moments.none(found)
    noise = np.einsum("gnr,grd->ngd", along, basis).reshape(-1, GALAXIES, SIDE, SIDE)
    for _ in range(100):  # so often that the reference before does not count
        sums = sums.plus(found, jnp.asarray(noise, jnp.float32))
    mean, covariance = moments(refined(found, sums))
    for k in range(GALAXIES):
        inside = basis[k].T
        np.testing.assert_allclose(mean[k], inside @ along[k].mean(0), atol=2e-2)
        expected = inside @ np.cov(along[k].T) @ inside.T
        np.testing.assert_allclose(
            inside.T @ covariance[k] @ inside, inside.T @ expected @ inside, atol=2e-2
        )


def test_few_draws_refine_little(found):
    sums = Moments.none(found)
    rank = found.place.shape[1]
    mean = np.asarray(found.place)[:, :, None] * np.asarray(found.basis)
    point = jnp.asarray(mean.sum(1).reshape(1, GALAXIES, SIDE, SIDE))
    sums = sums.plus(found, point)
    before, after = moments(found), moments(refined(found, sums))
    np.testing.assert_allclose(after[0], before[0], atol=1e-3)
    # One draw, a tenth of an independent one, at the mean: widths shrink by its share.
    share = (1 / CORRELATED) / (1 / CORRELATED + rank)
    first = np.asarray(found.basis[0, 0], float)
    ratio = (first @ after[1][0] @ first) / (first @ before[1][0] @ first)
    assert ratio == pytest.approx(1 - share, rel=1e-3)
