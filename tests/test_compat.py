"""Undocumented names of dependencies still work as they are used here.

A failure here names the package and its version: the mend belongs in
`scorepriors/_compat.py`, or the package needs an upper limit.
"""

import ast
import importlib.metadata
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray
from numpyro import handlers

from scorepriors import _compat
from scorepriors.inference.sampling import _tree
from scorepriors.inference.sampling._algorithms import ALGORITHMS
from scorepriors.inference.sampling._gradient import Tuned

ROOT = Path(__file__).parents[1]


@contextmanager
def used(package):
    """Name the package and its version where what is done with it fails."""
    try:
        yield
    except Exception as error:
        version = importlib.metadata.version(package)
        raise AssertionError(
            f"{package} {version} no longer does what scorepriors uses of it, see "
            f"scorepriors/_compat.py: {type(error).__name__}: {error}"
        ) from error


def test_the_package_is_named():
    with pytest.raises(AssertionError, match=r"^jax [\d.]+ no longer .*: KeyError: 'a'"):
        used("jax")(lambda: {}["a"])()


@pytest.mark.parametrize("name", _compat.SOURCES)
def test_every_name_is_there(name):
    assert getattr(_compat, name) is not None


def test_a_missing_name_is_told(monkeypatch):
    monkeypatch.setitem(_compat.SOURCES, "gone", "numpyro.primitives.gone")
    version = importlib.metadata.version("numpyro").replace(".", r"\.")
    message = rf"^numpyro {version} has no numpyro\.primitives\.gone, .* earlier numpyro"
    with pytest.raises(ImportError, match=message):
        from scorepriors._compat import gone  # noqa: F401
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _compat.nothing  # noqa: B018


@used("jax")
def test_primitive():
    ad, mlir = _compat.ad, _compat.mlir
    twice = _compat.Primitive("twice_of_the_tests")
    twice.def_impl(jax.jit(twice.bind))
    twice.def_abstract_eval(lambda x: x.update(shape=x.shape))

    def jvp(primals, tangents):
        out = twice.bind(*primals)
        slope = ad.Zero(out.aval)
        if type(tangents[0]) is not ad.Zero:
            slope = ad.add_tangents(slope, twice.bind(tangents[0]))
        return out, slope

    def transpose(cotangent, x):
        assert ad.is_undefined_primal(x)
        assert type(cotangent) is not ad.Zero
        assert x.aval.shape == cotangent.shape
        return (twice.bind(cotangent),)

    def lower(platform=None, factor=2):
        rule = mlir.lower_fun(lambda x: factor * x, multiple_results=False)
        mlir.register_lowering(twice, rule, platform=platform)

    ad.primitive_jvps[twice] = jvp
    ad.primitive_transposes[twice] = transpose
    _compat.batching.primitive_batchers[twice] = lambda x, axes: (twice.bind(x[0]), axes[0])
    lower()
    lower(jax.default_backend(), 3)  # the rule of a platform goes before the general one
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(twice.bind(x), 3 * x)
    np.testing.assert_array_equal(jax.vmap(twice.bind)(x), 3 * x)
    np.testing.assert_array_equal(jax.jvp(twice.bind, (x,), (x,))[1], 3 * x)
    np.testing.assert_array_equal(jax.grad(lambda x: twice.bind(x).sum())(x), 3 * jnp.ones(3))
    curvature = jax.hessian(lambda x: (twice.bind(x) ** 2).sum())(x)
    np.testing.assert_array_equal(curvature, 18 * jnp.eye(3))


@used("jax")
def test_custom_vmap():
    @_compat.custom_vmap
    def total(x):
        return x.sum()

    @total.def_vmap
    def rule(axis_size, in_batched, x):
        assert (axis_size, in_batched) == (2, [True])
        return x.sum(1) + 100, True

    np.testing.assert_array_equal(jax.jit(jax.vmap(total))(jnp.ones((2, 3))), [103, 103])
    on_cpu = jax.jit(lambda x: jax.lax.platform_dependent(x, cpu=total, default=total))
    assert on_cpu(jnp.ones(3)) == 3


@used("jax")
def test_symbolic_zeros():
    seen = []

    @jax.custom_jvp
    def product(x, y):
        return x * y

    def rule(primals, tangents):
        seen.append([isinstance(t, _compat.SymbolicZero) for t in tangents])
        return product(*primals), tangents[0] * primals[1]

    product.defjvp(rule, symbolic_zeros=True)
    assert jax.grad(product)(2.0, 3.0) == 3
    assert seen == [[False, True]]


@used("jax")
def test_quick_compilation():
    options = _compat.quick_compilation()
    assert set(options) <= {"xla_cpu_use_fusion_emitters", "xla_backend_optimization_level"}
    program = eqx.filter_jit(lambda x: x + 1, compiler_options=options)
    assert program(jnp.zeros(())) == 1
    assert not _compat._is_known("xla_nothing_of_this_name", 1)


@used("jax")
def test_double_precision_for_a_while():
    with jax.enable_x64(True):
        assert jnp.asarray(1.0, jnp.float64).dtype == jnp.float64


@used("numpyro")
def test_messages():
    class answer(_compat.Messenger):
        def process_message(self, msg):
            if msg["type"] == "question":
                msg["value"] = True

    def asked():
        return _compat.apply_stack({"type": "question", "name": "q", "value": False})["value"]

    assert not asked()
    with answer():
        assert asked()
        with handlers.seed(rng_seed=0), handlers.trace(), handlers.substitute(data={}):
            assert asked()
    assert not asked()


def model(data):
    width = numpyro.sample("width", dist.HalfNormal(2.0))
    numpyro.deterministic("twice", 2 * width)
    with numpyro.plate("pixels", len(data)):
        numpyro.sample("data", dist.Normal(0.0, width), obs=data)


@used("numpyro")
def test_unconstrained_values():
    args, u = (jnp.asarray([0.5, -1.0]),), {"width": jnp.asarray(0.3)}
    width = np.exp(0.3)
    values = _compat.constrain_fn(model, args, {}, u, return_deterministic=True)
    np.testing.assert_allclose([values["width"], values["twice"]], [width, 2 * width], rtol=1e-6)
    back = _compat.unconstrain_fn(model, args, {}, {"width": values["width"]})
    np.testing.assert_allclose(back["width"], 0.3, rtol=1e-6)
    substituted = handlers.substitute(model, substitute_fn=partial(_compat.unconstrain_reparam, u))
    terms, trace = _compat.compute_log_probs(substituted, args, {}, {}, sum_log_prob=False)
    assert terms["data"].shape == (2,)
    assert "width" in trace
    expected = dist.HalfNormal(2.0).log_prob(width) + 0.3
    expected += dist.Normal(0.0, width).log_prob(args[0]).sum()
    np.testing.assert_allclose(sum(jnp.sum(t) for t in terms.values()), expected, rtol=1e-6)
    np.testing.assert_allclose(-_compat.potential_energy(model, args, {}, u), expected, rtol=1e-6)


@used("numpyro")
def test_sample_validation():
    class Law(dist.Distribution):
        support = dist.constraints.positive

        @_compat.validate_sample
        def log_prob(self, value):
            return -value

    with pytest.warns(UserWarning, match="Out-of-support"):
        assert Law(validate_args=True).log_prob(jnp.asarray(-1.0)) == -np.inf
    assert Law(validate_args=False).log_prob(jnp.asarray(-1.0)) == 1


@used("blackjax")
def test_dual_averaging():
    init, update, _ = _compat.dual_averaging_adaptation(0.8)
    state = init(0.1)
    state = state._replace(mu=jnp.log(1.0), log_step_size_avg=jnp.log(0.1))
    for _ in range(20):
        state = update(state, jnp.asarray(1.0))
    assert state.log_step_size > np.log(0.1)  # all is accepted: the steps grow
    assert np.isfinite(state.log_step_size_avg)


@used("blackjax")
def test_low_rank_metric():
    draws = np.random.default_rng(0).normal(size=(40, 3)) * [1, 2, 30]
    with jax.enable_x64(True):
        scale, basis, variance = _compat.fisher_score_low_rank(
            jnp.asarray(draws), jnp.asarray(-draws / [1, 4, 900]), 2
        )
        covariance = jnp.eye(3) + (basis * (variance - 1)) @ basis.T
        covariance = scale[:, None] * covariance * scale
    np.testing.assert_allclose(covariance, np.diag([1.0, 4, 900]), rtol=1e-6, atol=1e-6)


@used("blackjax")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_kernels(name):
    sampler, tuned = ALGORITHMS[name](), Tuned(jnp.asarray(0.3), jnp.asarray(1.0))

    def density(x):
        return -0.5 * jnp.sum(x**2)

    @jax.jit
    def move(key):
        state = sampler.begin(key, jnp.ones(4), density)
        return sampler.move(key, state, density, tuned, jnp.asarray(0.5))

    state, info = move(jax.random.key(0))
    np.testing.assert_allclose(state.logdensity, density(state.position), rtol=1e-6)
    assert not np.array_equal(state.position, np.ones(4))
    assert 0 < info.acceptance_rate <= 1
    assert info.n_steps >= 1
    assert not info.diverging


@used("blackjax")
def test_pathfinder():
    import blackjax

    state, _ = blackjax.vi.pathfinder.approximate(
        jax.random.key(0), lambda p: -jnp.sum((p["x"] - 3) ** 2), {"x": jnp.zeros(2)}
    )
    np.testing.assert_allclose(state.position["x"], 3, atol=0.1)


@used("arviz")
def test_trees(tmp_path):
    draws = np.random.default_rng(0).normal(size=(2, 50, 3))
    tree = _tree.make_tree(
        {"posterior": {"a/flux": draws}, "sample_stats": {"lp": draws[..., 0]}},
        dims={"a/flux": ["band"]},
        coords={"band": list("gri")},
        attrs={"model": "test"},
    )
    assert set(_tree.group_names(tree)) >= {"posterior", "sample_stats"}
    posterior = _tree.group(tree, "posterior")
    assert isinstance(posterior, xarray.Dataset)
    assert posterior["a_flux"].dims == ("chain", "draw", "band")
    _tree.replace_group(tree, "posterior", 2 * posterior)
    _tree.save_tree(tree, tmp_path / "draws.nc")
    stored = _tree.load_tree(tmp_path / "draws.nc")
    np.testing.assert_array_equal(_tree.group(stored, "posterior")["a_flux"], 2 * draws)
    assert stored.attrs["model"] == "test"
    assert _tree.effective_sizes(posterior)["a_flux"].shape == (3,)


@used("matfree")
def test_leave_one_out():
    stochtrace, matrix = _compat.stochtrace, jnp.diag(jnp.asarray([1.0, 2, 3, 400]))

    def estimate(estimator, sampler):
        sample = sampler(jnp.zeros(4), num=3)
        run = stochtrace.estimator_leave_one_out(estimator, sampler=sample)
        return run(lambda v: matrix @ v, jax.random.key(0))

    diagonal = estimate(stochtrace.leave_one_out_xdiag(), stochtrace.sampler_signs)
    assert diagonal.shape == (4,)
    np.testing.assert_allclose(diagonal[3], 400, rtol=0.05)
    trace = estimate(stochtrace.leave_one_out_xtrace(), stochtrace.sampler_normal)
    np.testing.assert_allclose(trace, 406, rtol=0.05)


#: Modules without a promise, and those of which some names are used: see `SOURCES`.
UNSTABLE = {source.rpartition(".")[0] for source in _compat.SOURCES.values()} - {"matfree"}
UNSTABLE |= {"jax._src", "jax.extend", "jax.interpreters", "jax.experimental", "equinox.internal"}
UNSTABLE |= {"matfree.stochtrace"}


def unstable(text):
    """Names that a module imports from others without a promise."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            private = any(part.startswith("_") and part[:2] != "__" for part in parts)
            own = parts[0] in {"scorepriors", *sys.stdlib_module_names}
            if not own and (private or any(f"{name}.".startswith(f"{m}.") for m in UNSTABLE)):
                yield name


def test_nothing_else_imports_them():
    found = {
        (str(path.relative_to(ROOT)), name)
        for folder in ("scorepriors", "models", "inference")
        for path in (ROOT / folder).rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents if parent != ROOT)
        for name in unstable(path.read_text())
    }
    assert found == set()
    # Negative controls.
    assert list(unstable("from jax._src import core")) == ["jax._src.core"]
    assert list(unstable("from numpyro.infer.util import log_density")) != []
    assert list(unstable("from optax._src.base import f")) == ["optax._src.base.f"]
    assert list(unstable("import jax, numpyro.infer\nfrom ._private import x")) == []
