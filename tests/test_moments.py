"""Moments of images whose moments are known."""

import numpy as np
import pytest

from scorepriors._errors import InputError
from scorepriors._moments import MOMENTS, centroids, count_maxima, image_moments, shapes

N = 32
Y, X = np.mgrid[:N, :N] - (N - 1) / 2


def gaussian(sigma_x, sigma_y=None, *, center=(0.0, 0.0), angle=0.0):
    sigma_y = sigma_x if sigma_y is None else sigma_y
    y, x = Y - center[0], X - center[1]
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return np.exp(-0.5 * ((u / sigma_x) ** 2 + (v / sigma_y) ** 2))


def windowed(sigma):
    return sigma * (N / 6) / np.hypot(sigma, N / 6)


def test_round_gaussian():
    moments = image_moments(np.stack([gaussian(2.0), 3 * gaussian(2.0)]))
    np.testing.assert_allclose(moments["flux"], [8 * np.pi, 24 * np.pi], rtol=1e-4)
    # The windowed standard deviation of a sampled Gaussian has no pixel to add.
    np.testing.assert_allclose(moments["size"], windowed(2.0), rtol=1e-4)
    np.testing.assert_allclose(moments["ellipticity"], 0, atol=1e-6)
    np.testing.assert_allclose(moments["centroid_offset"], 0, atol=1e-6)
    peak = gaussian(2.0).max()
    np.testing.assert_allclose(moments["peak_over_flux"], peak / (8 * np.pi), rtol=1e-4)
    np.testing.assert_array_equal(moments["num_maxima"], 1)


@pytest.mark.parametrize("angle", [0.0, 0.5, np.pi / 4, 2.0])
def test_ellipticity_does_not_depend_on_the_angle(angle):
    moments = image_moments(gaussian(3.0, 1.5, angle=angle)[None])
    a, b = windowed(3.0) ** 2, windowed(1.5) ** 2
    np.testing.assert_allclose(moments["ellipticity"], (a - b) / (a + b), rtol=1e-3)
    np.testing.assert_allclose(moments["size"], np.sqrt((a + b) / 2), rtol=1e-3)


def test_shapes_of_a_known_ellipse():
    rows, columns = np.indices((61, 61)) - 30.0
    # The Gaussian weight of 6 px narrows each axis: 1 / (1 / s^2 + 1 / 36).
    image = np.exp(-(columns**2) / 2 / 4 - rows**2 / 2 / 2.25)
    wide, high = 1 / (1 / 4 + 1 / 36), 1 / (1 / 2.25 + 1 / 36)
    size, e1, e2 = (value[0] for value in shapes(image[None]))
    assert size == pytest.approx(np.sqrt(wide + high), rel=1e-3)
    assert e1 == pytest.approx((wide - high) / (wide + high), rel=1e-3)
    assert e2 == pytest.approx(0, abs=1e-9)
    assert np.isnan(shapes(np.zeros((1, 9, 9)))[0]).all()


def test_shapes_are_the_sums_over_pixels():
    """As written down: plain centroid, window of 6 px about it, oblong images, negative pixels."""
    rng = np.random.default_rng(0)
    images = rng.normal(0.3, 1, (3, 21, 30))
    rows, columns = np.indices((21, 30))
    places = centroids(images)
    for image, place, size, e1, e2 in zip(images, places, *shapes(images), strict=True):
        light = np.maximum(image, 0)
        y, x = (light * rows).sum() / light.sum(), (light * columns).sum() / light.sum()
        np.testing.assert_allclose(place, [y, x], rtol=1e-12)
        light *= np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 72)
        yy, xx = (light * (rows - y) ** 2).sum(), (light * (columns - x) ** 2).sum()
        xy = (light * (rows - y) * (columns - x)).sum()
        np.testing.assert_allclose(size, np.sqrt((xx + yy) / light.sum()), rtol=1e-12)
        np.testing.assert_allclose([e1, e2], np.array([xx - yy, 2 * xy]) / (xx + yy), rtol=1e-9)


def test_centroid_offset():
    moments = image_moments(gaussian(1.5, center=(0.3, -0.4))[None])
    np.testing.assert_allclose(moments["centroid_offset"], 0.5, rtol=1e-2)


def test_concentration_falls_with_size():
    moments = image_moments(np.stack([gaussian(s) for s in (1.0, 2.0, 4.0)]))
    assert (np.diff(moments["concentration"]) < 0).all()
    # Growth curve of a Gaussian at radii of 2 and 8 pixels, on whole pixels.
    expected = (1 - np.exp(-0.5)) / (1 - np.exp(-8.0))
    np.testing.assert_allclose(moments["concentration"][1], expected, rtol=0.1)


def test_border():
    image = gaussian(2.0)
    image[0] = image[-1] = image[:, 0] = image[:, -1] = 0.25
    moments = image_moments(image[None])
    np.testing.assert_allclose(moments["border_over_peak"], 0.25 / image.max(), rtol=1e-6)


def test_every_orientation_measures_alike():
    image = gaussian(3.0, 1.5, center=(0.2, 0.4), angle=0.3)
    turned = [np.rot90(image, k)[:, ::flip] for k in range(4) for flip in (1, -1)]
    for name, values in image_moments(np.stack(turned)).items():
        np.testing.assert_allclose(values, values[0], rtol=1e-6, err_msg=name)


def test_maxima():
    pair = gaussian(1.5, center=(0, -6)) + 0.5 * gaussian(1.5, center=(0, 6))
    faint = gaussian(1.5, center=(0, -6)) + 0.05 * gaussian(1.5, center=(0, 6))
    np.testing.assert_array_equal(count_maxima(np.stack([pair, faint])), [2, 1])


def test_plateau_counts_once():
    image = np.zeros((8, 8))
    image[3:5, 3:5] = 1.0
    np.testing.assert_array_equal(count_maxima(image[None]), [1])


def test_noise_of_sigma0_makes_no_maxima():
    rng = np.random.default_rng(0)
    # The noise of sigma0 = 0.05 at the peak: (s + 1) c sigma0.
    noisy = gaussian(6.0) * (1 + 0.023 * rng.normal(size=(200, N, N)))
    np.testing.assert_array_equal(count_maxima(noisy), 1)
    # The unsmoothed count would not: a control that the smoothing is needed.
    inner = noisy[:, 1:-1, 1:-1]
    around = [
        noisy[:, 1 + i : N - 1 + i, 1 + j : N - 1 + j]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if (i, j) != (0, 0)
    ]
    raw = (inner > np.max(around, axis=0)) & (inner > 0.1)
    assert (raw.sum((1, 2)) > 1).any()


def test_empty_images_give_finite_numbers():
    for image in (np.zeros((N, N)), -np.ones((N, N))):
        moments = image_moments(image[None])
        assert list(moments) == list(MOMENTS)
        assert all(np.isfinite(values).all() for values in moments.values())


def test_wrong_shape():
    with pytest.raises(InputError, match="stack of square images"):
        image_moments(np.zeros((4, 4)))
