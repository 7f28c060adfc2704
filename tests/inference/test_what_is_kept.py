"""What a run keeps and says: checked before its first draw, whole after it, the same when resumed."""

import re
import signal
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas
import pytest
import xarray
from astropy import units
from numpyro.contrib.control_flow import scan

from scorepriors._archives import read_archive, write_archive
from scorepriors._errors import InputError
from scorepriors.inference import (
    NUTS,
    Keep,
    Move,
    SamplingWarning,
    fit_map,
    laplace,
    posterior,
    sample,
)
from scorepriors.inference.sampling import _checkpoints
from scorepriors.inference.sampling._diagnostics import SUBSET, diagnose
from scorepriors.inference.sampling._labels import lay_out
from scorepriors.inference.sampling._run import Run
from scorepriors.inference.sampling._tree import group, make_tree

KEY = jax.random.key(0)
SHORT = {"num_warmup": 20, "num_samples": 8, "num_chains": 2, "init": "uniform"}


def quiet(run, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        return run(*args, key=KEY, **options)


class Unsampled(dist.Normal):
    """A likelihood that knows its density alone."""

    def sample(self, key, sample_shape=()):
        raise NotImplementedError


def line(y):
    level = numpyro.sample("level", dist.Normal(0, 1))
    numpyro.sample("first", dist.Normal(level, 1), obs=0.3)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", Unsampled(level, 1), obs=y)


def factor_alone():
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.factor("data", -(x**2))


# What is asked for is tried before the first draw.


@pytest.mark.parametrize("run", [sample, laplace])
def test_a_site_that_can_not_be_predicted_ends_before_the_first_draw(run, monkeypatch):
    monkeypatch.setattr("scorepriors.inference.sampling._laplace.fit_map", None)
    monkeypatch.setattr("scorepriors.inference.sampling._gradient.origin_of", None)
    with pytest.raises(InputError, match=r"the site 'y' can't be predicted.*\(Unsampled\)"):
        run(line, np.ones(3), key=KEY, keep=Keep(posterior_predictive=True))


def test_without_predictions_it_is_sampled():
    tree = quiet(laplace, line, np.ones(3), keep=Keep(log_likelihood=True), num_samples=8)
    assert group(tree, "log_likelihood")["y"].shape == (1, 8, 3)


def test_a_group_that_will_be_empty_is_said():
    keep = Keep(log_likelihood=True, posterior_predictive=True, log_prior=True)
    with pytest.warns(UserWarning, match="`log_likelihood` and `posterior_predictive` will be"):
        lay_out(posterior(factor_alone), keep)
    lay_out(posterior(line, np.ones(3)), Keep(log_likelihood=True, log_prior=True))


# Observed values that the model computes.


def computed(y, seen):
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    numpyro.sample("seen", dist.Normal(mean, 1).expand([2]), obs=y[seen])
    numpyro.sample("log", dist.Normal(mean, 1).expand([3]), obs=jnp.log(y))
    numpyro.sample("given", dist.Normal(mean, 1).expand([3]), obs=y)
    numpyro.sample("residual", dist.Normal(0, 1).expand([3]), obs=y - mean)


def test_observed_values_that_the_model_computes_are_kept():
    y = np.array([1.0, 2.0, 4.0], "f4")
    tree = quiet(laplace, computed, y, np.array([2, 0]), num_samples=8)
    data = group(tree, "observed_data")
    np.testing.assert_allclose(data["seen"], [4, 1])
    np.testing.assert_allclose(data["log"], np.log(y), rtol=1e-6)
    np.testing.assert_allclose(data["given"], y)
    # Another one at every draw, and so no data.
    assert "residual" not in data


# Predictions.


def test_deterministic_sites_follow_the_predictions():
    def model(y, z):
        mean = numpyro.sample("mean", dist.Normal(0, 1))
        y = numpyro.sample("y", dist.Normal(mean, 1).expand([4]), obs=y)
        total = numpyro.deterministic("total", y.sum())
        numpyro.sample("z", dist.Normal(total, 1e-3), obs=z)

    bound = posterior(model, jnp.full(4, 100.0), jnp.asarray(400.0))
    values, _, new = bound.recover(KEY, {"mean": jnp.asarray(0.5)}, predictive=True)
    assert abs(new["z"] - new["y"].sum()) < 0.01
    assert abs(new["z"]) < 20
    assert values["total"] == 400


def test_predictions_of_a_scan_are_one_step_ahead_of_the_observed_past():
    def walk(y):
        share = numpyro.sample("share", dist.Normal(0, 1))

        def step(before, now):
            now = numpyro.sample("y", dist.Normal(share * before, 1e-3), obs=now)
            numpyro.deterministic("twice", 2 * now)
            return now, None

        scan(step, jnp.asarray(7.0), y)

    y = jnp.asarray([100.0, 3.0, -50.0, 8.0])
    bound = posterior(walk, y)
    _, _, new = bound.recover(KEY, {"share": jnp.asarray(0.5)}, predictive=True)
    np.testing.assert_allclose(new["y"], [3.5, 50.0, 1.5, -25.0], atol=0.01)
    tree = quiet(laplace, bound, num_samples=8)
    np.testing.assert_allclose(group(tree, "observed_data")["y"], y)


# Resumed runs.


def a_run(blocks):
    draws = [np.arange(n * 2 * 3, dtype="f4").reshape(n, 2, 3) for n in blocks]
    moves = [Move(np.ones((n, 2)), np.zeros((n, 2), bool), np.ones((n, 2), int)) for n in blocks]
    state = np.zeros(3, "f4")
    return Run(np.ones(2, "f4"), state, "map; words", sum(blocks), 5, draws=draws, moves=moves)


def test_a_checkpoint_has_the_start_and_the_blocks_of_its_run(tmp_path):
    path, like = tmp_path / "run.npz", (np.ones(2, "f4"), np.zeros(3, "f4"))
    run = a_run([4, 4, 4, 1])
    _checkpoints.save_run(path, run, "mark")
    again = _checkpoints.load_run(path, like, "mark", 4)
    assert again.start == "map; words"
    assert [len(one) for one in again.draws] == [4, 4, 4, 1]
    np.testing.assert_array_equal(np.concatenate(again.draws), np.concatenate(run.draws))


def test_a_checkpoint_of_before_is_still_read(tmp_path):
    path, like = tmp_path / "run.npz", (np.ones(2, "f4"), np.zeros(3, "f4"))
    _checkpoints.save_run(path, a_run([4]), "mark")
    told = {"kind": _checkpoints._KIND, "version": 2}
    arrays, facts = read_archive(path, mend="", identity="mark", other="", **told)
    facts.pop("start")
    write_archive(path, arrays, facts, identity="mark", **told)
    assert _checkpoints.load_run(path, like, "mark", 4).start == "checkpoint"


def pair():
    x = numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.deterministic("large", jnp.outer(x, x))


def test_a_resumed_run_says_how_it_started(tmp_path):
    def stop(done, total, text):
        if done >= 24 and text.startswith("draws"):
            signal.raise_signal(signal.SIGINT)

    options = {**SHORT, "num_samples": 60, "checkpoint": tmp_path / "run.npz"}
    quiet(sample, pair, **options, progress=stop)
    again = quiet(sample, pair, **options)
    assert again.attrs["interrupted"] == 0
    assert again.attrs["start"] == "uniform"


# Effective draws.


def test_the_element_with_the_fewest_effective_draws_is_looked_at():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 500, 40, 50))
    x[:, :, 31, 17] += 3 * np.arange(4)[:, None]
    stats = {"diverging": np.zeros((4, 500), bool)}
    tree = make_tree({"posterior": {"x": x, "y": x[..., 0, 0]}, "sample_stats": stats})
    found = diagnose(tree, NUTS())
    assert x[0, 0].size > SUBSET
    assert found.min_ess < 10
    assert found.worst == "x"


def test_tails_have_their_own_effective_draws():
    # Chains that agree about the middle: two of them have tails, which they visit rarely and long.
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 1000))
    x[:2, 300:420] = 4 + 0.01 * rng.normal(size=(2, 120))
    stats = {"diverging": np.zeros((4, 1000), bool)}
    found = diagnose(make_tree({"posterior": {"x": x}, "sample_stats": stats}), NUTS())
    assert found.min_ess_tail < found.min_ess / 2
    assert found.min_ess_tail > 0


# Containers of data.


def normal(x, y, scale=1.0):
    mean = numpyro.sample("mean", dist.Normal(0, 10))
    numpyro.sample("y", dist.Normal(mean * x, scale).to_event(1), obs=y)


def bound_y(y):
    return posterior(normal, np.ones(3, "f4"), y).arguments[0][1]


@pytest.mark.parametrize(
    "given",
    [
        pandas.Series([1.0, 2.0, 3.0], index=[7, 8, 9]),
        pandas.Index([1.0, 2.0, 3.0]),
        pandas.Series([1, 2, 3], dtype="Int64"),
        xarray.DataArray([1.0, 2.0, 3.0], dims="row"),
        np.ma.masked_array([1.0, 2.0, 3.0]),
        units.Quantity([100.0, 200.0, 300.0], "percent"),
    ],
    ids=["series", "index", "nullable", "dataarray", "unmasked", "percent"],
)
def test_containers_of_numbers_are_arrays(given):
    found = bound_y(given)
    assert isinstance(found, jax.Array)
    np.testing.assert_allclose(found, [1, 2, 3], rtol=1e-6)


def test_tables_within_arguments_are_arrays():
    table = pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    bound = posterior(lambda data: None, model_kwargs={"data": {"table": table, "name": "x"}})
    data = bound.arguments[1]["data"]
    assert isinstance(data["table"], jax.Array)
    np.testing.assert_array_equal(data["table"], [[1, 3], [2, 4]])
    assert data["name"] == "x"


def test_a_series_is_fitted():
    best = fit_map(normal, np.ones(3, "f4"), pandas.Series([1.0, 2.0, 3.0]), key=KEY)
    np.testing.assert_allclose(best.values["mean"], 2 * 300 / 301, rtol=1e-4)


REFUSED = [
    (units.Quantity([1.0, 2.0, 3.0], "km"), "`y` has the unit km"),
    (units.Quantity([1.0, 2.0, 3.0], "km"), "`.to_value('km')`"),
    (np.ma.masked_array([1.0, 2.0, 3.0], [0, 1, 0]), "`y` has 1 masked element,"),
    (pandas.Series(["a", "b", "c"]), "`y` is an array of the type"),
    (np.array(["a", "b", "c"]), "`y` is an array of the type"),
    (
        pandas.Series(pandas.date_range("2026-01-01", periods=3)),
        "`y` is an array of the type datetime",
    ),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_what_would_lose_its_meaning_is_refused(given, message):
    with pytest.raises(InputError, match=re.escape(message)):
        bound_y(given)


def test_parts_of_arguments_are_named():
    with pytest.raises(InputError, match=re.escape("`data['flux'][1]` has the unit Jy")):
        posterior(lambda data: None, {"flux": [1.0, 2.0 * units.Jy]})
    with pytest.raises(InputError, match="`scale` has the unit m"):
        posterior(normal, np.ones(3), np.ones(3), model_kwargs={"scale": 1.0 * units.m})


def test_a_unit_of_data_from_elsewhere_is_refused():
    data = units.Quantity([1.0, 2.0], "km")

    def model():
        numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), 1), obs=data)

    with pytest.raises(InputError, match="the value of the site 'y' has the unit km"):
        fit_map(model, key=KEY)


def test_integers_beyond_the_type_of_jax_are_refused():
    large = np.array([1, 2**31])
    if jax.config.jax_enable_x64:
        assert int(bound_y(large)[1]) == 2**31
        return
    with pytest.raises(
        InputError, match="`y` has the integer 2147483648, which does not fit int32"
    ):
        bound_y(large)
    np.testing.assert_array_equal(bound_y(large - 1), [0, 2**31 - 1])


# Sites that are left out.


def test_sites_are_left_out():
    tree = quiet(sample, pair, **SHORT)
    assert set(group(tree, "posterior").data_vars) == {"x", "large"}
    some = quiet(sample, pair, **SHORT, keep=Keep(leave_out=["large"], dims={"large": ["a", "b"]}))
    assert set(group(some, "posterior").data_vars) == {"x"}
    np.testing.assert_array_equal(group(some, "posterior")["x"], group(tree, "posterior")["x"])
    rest = quiet(sample, pair, **SHORT, keep=Keep(leave_out=["x"]))
    assert set(group(rest, "posterior").variables) - {"chain", "draw"} == {
        "large",
        "large_dim_0",
        "large_dim_1",
    }
    # It is judged as if it were there.
    for name in ("max_rhat", "min_ess", "min_ess_site", "findings"):
        assert rest.attrs[name] == tree.attrs[name]
    quick = quiet(laplace, pair, num_samples=8, keep=Keep(leave_out=["x"]))
    assert set(group(quick, "posterior").data_vars) == {"large"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nope"], "`leave_out` names 'nope', no site with draws; those are 'level'."),
        ("level", "got the string 'level': give ['level']"),
        (["y"], "`leave_out` names 'y', which is observed"),
        (["level"], "`leave_out` names every site with draws"),
    ],
)
def test_names_to_leave_out_are_checked_before_the_first_draw(names, message, monkeypatch):
    monkeypatch.setattr("scorepriors.inference.sampling._gradient.origin_of", None)
    with pytest.raises(InputError, match=re.escape(message)):
        sample(line, np.ones(3), key=KEY, keep=Keep(leave_out=names))
