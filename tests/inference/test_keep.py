"""What a result holds: names checked before the first draw, masks, log-priors, NaN."""

import json
import re
import warnings

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from scorepriors._errors import InputError
from scorepriors.inference import Keep, SamplingWarning, laplace, load_tree, sample, save_tree
from scorepriors.inference.sampling._tree import DATATREE, group
from scorepriors.models import Observation, exposures, gaussian_psf

KEY = jax.random.key(0)


def slopes():
    numpyro.sample("b", dist.Normal(0, 1).expand([3]).to_event(1))
    with numpyro.plate("n", 4):
        numpyro.sample("c/d", dist.Normal(0, 1))


def quiet(run, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        return run(*args, key=KEY, **options)


WRONG = [
    ({"dims": {"b": ["k"]}, "coords": {"k": ["x", "y"]}}, "`coords['k']` has 2 labels"),
    ({"dims": {"b": "k"}}, "got the string 'k': give ['k']"),
    ({"dims": {"b": ["i", "j"]}}, "`dims['b']` has 2 names ('i', 'j')"),
    ({"dims": {"b": []}}, "`dims['b']` has 0 names"),
    ({"dims": {"nope": ["i"], "other": ["j"]}}, "`dims` names 'nope', 'other', no site"),
    ({"coords": {"nope": [1, 2]}}, "`coords` names 'nope', no axis of the model"),
    ({"coords": {"n": 4}}, "`coords['n']` has the shape ()"),
    ({"dims": {"b": ["chain"]}}, "an axis named 'chain'"),
    ({"dims": {"b": ["b"]}}, "the name of a site"),
    ({"dims": {"b": ["n"]}}, "the axis 'n' has 3 elements in 'b' and 4 in 'c/d'"),
    ({"constant_data": {"draw": np.ones(2)}}, "'draw' is the name of an axis of all draws"),
    ({"constant_data": {"t": np.ones((2, 3))}, "dims": {"t": ["s", "s"]}}, "'s'"),
]


@pytest.mark.parametrize(("keep", "message"), WRONG, ids=[message for _, message in WRONG])
@pytest.mark.parametrize("run", [sample, laplace])
def test_names_are_checked_before_the_first_draw(run, keep, message, monkeypatch):
    # Whatever computes is out of reach.
    monkeypatch.setattr("scorepriors.inference.sampling._laplace.fit_map", None)
    monkeypatch.setattr("scorepriors.inference.sampling._gradient.origin_of", None)
    with pytest.raises(InputError, match=re.escape(message)):
        run(slopes, key=KEY, keep=Keep(**keep))


@pytest.mark.parametrize("names", [["row"], ["row", "column", "n"], [], "ab", [1, 2]])
@pytest.mark.parametrize("run", [sample, laplace])
def test_names_of_events_are_checked_before_the_first_draw(run, names, monkeypatch):
    monkeypatch.setattr("scorepriors.inference.sampling._laplace.fit_map", None)
    monkeypatch.setattr("scorepriors.inference.sampling._gradient.origin_of", None)

    def images():
        with numpyro.plate("n", 4):
            each = dist.Normal(0, 1).expand([4, 2, 3]).to_event(2)
            numpyro.sample("image", each, infer={"event_dims": names})

    with pytest.raises(InputError, match=r"the site 'image' .* \(2, 3\): give a list of 2 names"):
        run(images, key=KEY)


def test_right_names_reach_the_result():
    keep = Keep(
        dims={"b": ("k",), "c_d": ["m"], "t": ["k"]},
        coords={"k": list("xyz"), "m": range(4)},
        constant_data={"t": np.arange(3)},
    )
    tree = quiet(laplace, slopes, keep=keep)
    posterior = group(tree, "posterior")
    assert posterior["b"].dims == ("chain", "draw", "k")
    assert posterior["c_d"].dims == ("chain", "draw", "m")
    assert list(posterior["k"].values) == list("xyz")
    assert group(tree, "constant_data")["t"].dims == ("k",)


def test_sites_whose_names_clash_are_refused():
    def twice():
        numpyro.sample("a/b", dist.Normal(0, 1))
        numpyro.sample("a_b", dist.Normal(0, 1))

    def axis():
        numpyro.sample("chain", dist.Normal(0, 1))

    def plate():
        with numpyro.plate("draw", 3):
            numpyro.sample("b", dist.Normal(0, 1))

    for model, message in ((twice, "'a/b' and 'a_b'"), (axis, "'chain'"), (plate, "'draw'")):
        with pytest.raises(InputError, match=message):
            sample(model, key=KEY)


def test_values_in_a_plate_with_axes_of_their_own_get_default_names():
    def model():
        with numpyro.plate("n", 5):
            x = numpyro.sample("x", dist.Normal(0, 1))
            numpyro.deterministic("pair", jnp.stack([x.min(), x.max()]))

    bound = quiet(laplace, model)
    assert group(bound, "posterior")["pair"].dims == ("chain", "draw", "pair_dim_0")


# Masked elements are no observations.

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(0.3, 1, (12, 10)).astype(np.float32)
MASK = np.ones((12, 10), bool)
MASK[:, 8:] = MASK[3] = False


def by_distribution(image, mask):
    level = numpyro.sample("level", dist.Normal(0, 10.0))
    with numpyro.plate("y", 12, dim=-2), numpyro.plate("x", 10, dim=-1):
        numpyro.sample("pixels", dist.Normal(level, 1.0).mask(mask), obs=image)


def by_handler(image, mask):
    level = numpyro.sample("level", dist.Normal(0, 10.0))
    with handlers.mask(mask=mask):
        numpyro.sample("pixels", dist.Normal(level, 1.0), obs=image)


def by_row(image, mask):
    level = numpyro.sample("level", dist.Normal(0, 10.0))
    row = dist.Normal(level, 1.0).expand(image.shape).mask(mask)
    numpyro.sample("pixels", row.to_event(1), obs=image)


def whole(image):
    level = numpyro.sample("level", dist.Normal(0, 10.0))
    numpyro.sample("pixels", dist.Normal(level, 1.0), obs=image)


def elpd(tree):
    found = az.loo(tree)
    return (found.elpd if DATATREE else found.elpd_loo), found.n_data_points


@pytest.mark.parametrize("model", [by_distribution, by_handler])
def test_leave_one_out_of_masked_pixels_is_that_of_the_others(model, tmp_path):
    keep = Keep(log_likelihood=True)
    tree = quiet(laplace, model, jnp.asarray(IMAGE), jnp.asarray(MASK), keep=keep)
    cut = quiet(laplace, whole, jnp.asarray(IMAGE[MASK]), keep=keep)
    (found, count), (expected, _) = elpd(tree), elpd(cut)
    assert count == MASK.sum() == 88
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    dataset = group(tree, "log_likelihood")
    assert dataset["pixels"].dims == ("chain", "draw", "pixels_unmasked")
    names = (
        ("pixels_y", "pixels_x") if model is by_distribution else ("pixels_dim_0", "pixels_dim_1")
    )
    rows, columns = np.nonzero(MASK)
    np.testing.assert_array_equal(dataset[names[0]], rows)
    np.testing.assert_array_equal(dataset[names[1]], columns)
    save_tree(tree, tmp_path / "draws.nc")
    np.testing.assert_array_equal(
        group(load_tree(tmp_path / "draws.nc"), "log_likelihood")[names[1]], columns
    )


def test_masks_without_effect_leave_the_axes():
    keep = Keep(log_likelihood=True)
    tree = quiet(laplace, by_distribution, jnp.asarray(IMAGE), jnp.asarray(MASK | True), keep=keep)
    assert group(tree, "log_likelihood")["pixels"].dims == ("chain", "draw", "y", "x")


def test_an_event_is_masked_where_all_of_it_is():
    keep = Keep(log_likelihood=True)
    tree = quiet(laplace, by_row, jnp.asarray(IMAGE), jnp.asarray(MASK), keep=keep)
    assert group(tree, "log_likelihood")["pixels"].shape[2:] == (11,)


def test_masks_that_depend_on_parameters_are_kept_as_they_are():
    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0).mask(y > x), obs=y)

    tree = quiet(sample, model, jnp.linspace(-1, 1, 5), keep=Keep(log_likelihood=True))
    assert group(tree, "log_likelihood")["y"].shape[2:] == (5,)


def test_leave_one_out_of_an_exposure_with_masked_pixels():
    weights = np.ones((1, 16, 16), np.float32)
    weights[:, :, 12:] = 0
    image, psf = RNG.normal(size=(1, 16, 16)), gaussian_psf(1.5, 15)[None]
    obs = Observation.from_arrays(image, weights=weights, psfs=psf, bands=("r",))
    (data,) = exposures(obs, boxes=(9,))

    def model(data):
        level = numpyro.sample("level", dist.Normal(0, 10.0))
        plates = [numpyro.plate(n, size, dim=d) for n, size, d in AXES]
        with plates[0], plates[1], plates[2]:
            likelihood = data.likelihood(jnp.zeros(data.images.shape) + level)
            numpyro.sample("pixels", likelihood, obs=data.images)

    keep = Keep(log_likelihood=True, coords={"band": ["r"]})
    tree = quiet(laplace, model, data, keep=keep)
    assert elpd(tree)[1] == 16 * 12
    assert set(group(tree, "log_likelihood")["pixels_band"].values) == {"r"}
    assert group(tree, "observed_data")["pixels"].shape == (1, 16, 16)


AXES = (("band", 1, -3), ("y", 16, -2), ("x", 16, -1))


# Log-priors.


def conjugate(y, width):
    mean = numpyro.sample("mean", dist.Normal(0, width))
    numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def test_prior_sensitivity_of_a_conjugate_model():
    y = jnp.asarray(RNG.normal(3, 1, 5))
    keep = Keep(log_likelihood=True, log_prior=True)
    found = {}
    for width in (1.0, 30.0):
        tree = quiet(sample, conjugate, y, jnp.asarray(width), keep=keep, num_samples=1000)
        mean = np.asarray(group(tree, "posterior")["mean"])
        prior = np.asarray(group(tree, "log_prior")["mean"])
        expected = dist.Normal(0, width).log_prob(mean)
        np.testing.assert_allclose(prior, expected, rtol=1e-4, atol=1e-4)
        if DATATREE:
            found[width] = float(np.asarray(az.psense(tree, group="prior")["mean"]))
        else:
            found[width] = float(az.psens(tree, component="prior")["mean"])
    # A prior three of its widths away pulls; one of ten times that width does not.
    assert found[1.0] > 0.05 > found[30.0]


# NaN.


def test_a_deterministic_site_with_nan_is_named_and_the_others_are_judged():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.deterministic("root", jnp.sqrt(x + 1))

    with pytest.warns(SamplingWarning, match=r"root is not a number \(NaN\) in \d+ of 2000"):
        tree = sample(model, key=KEY)
    assert tree.attrs["status"] == "undefined"
    assert len(json.loads(tree.attrs["warnings"])) == 1
    assert tree.attrs["max_rhat"] < 1.01
    with pytest.warns(SamplingWarning, match="root is not a number"):
        laplace(model, key=KEY)
