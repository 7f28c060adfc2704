r"""Hessians of minus a log-density: products, diagonals, traces, eigenpairs.

A Hessian is the Jacobian of a gradient, a lineax operator over the tree of its parameters: it
multiplies vectors without being stored, and `lineax.linear_solve` accepts it.  The cost of an
estimate is counted in products with it, each about two gradients.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.flatten_util import ravel_pytree

from scorepriors._compat import stochtrace
from scorepriors._errors import InputError
from scorepriors._loops import deferred_interrupt
from scorepriors._progress import Progress, reporting
from scorepriors._traces import Kept
from scorepriors.inference._checked import check_point
from scorepriors.inference._enumeration import ENUMERATED
from scorepriors.inference._lanczos import RitzPairs, ritz_pairs
from scorepriors.inference._posterior import Posterior, floating, posterior
from scorepriors.inference.fitting._map import MAPResult

from ._differences import DIFFERENCES, differenced_hessian, is_differentiable

#: Number of vectors multiplied at once, which limits the memory.
CHUNK = 64

#: Largest number of probes for `relative_error`, unless `num_probes` is given.
MOST_PROBES = 4096

#: Number of independent runs of estimators whose own standard errors are unreliable.
REPEATS = 8

#: Largest dimension in which a diagonal is exact by default, by a product for each.
EXACT = 1024


def hessian(function: Callable, point) -> lx.JacobianLinearOperator:
    """Return the Hessian of a scalar function at a point, as a symmetric operator.

    Parameters
    ----------
    function
        Function from a tree of parameters to a number, itself a pytree (an `equinox.Module` or
        `jax.tree_util.Partial`), so that other data reuse the compiled program.
    point
        Parameters at which the Hessian is taken.
    """
    # The function is an argument of its gradient, so that no arrays are closed over.
    return lx.JacobianLinearOperator(
        _gradient, point, function, lx.symmetric_tag, closure_convert=False
    )


def _gradient(point, function):
    return jax.grad(function)(point)


class _Part(eqx.Module):
    """Minus a part of a log-density as a function of some of the sites."""

    bound: Posterior
    rest: dict
    part: str = eqx.field(static=True)

    def __call__(self, u):
        u = {**self.rest, **u}
        if self.part == "posterior":
            return self.bound.potential_fn(u)
        terms = self.bound.log_density_terms(u)
        if ENUMERATED in terms:
            raise InputError(
                f"part={self.part!r} is not known apart in a model with discrete sites: the sum "
                "over them is of prior and likelihood; use part='posterior'."
            )
        chosen = [v for n, v in terms.items() if _is_prior(n, u) == (self.part == "prior")]
        return -sum((jnp.sum(v) for v in chosen), jnp.zeros(()))


def _is_prior(term: str, sites) -> bool:
    """Return whether a term is that of a latent site or of the Jacobian of its transform."""
    # NumPyro adds the Jacobian as `_{name}_log_det`, with the prefix of a scope in front again.
    return term in sites or any(
        term.endswith(own := f"_{name}_log_det") and name.startswith(term[: -len(own)])
        for name in sites
    )


def hessian_operator(
    model: Callable | Posterior,
    point: dict | MAPResult,
    *,
    sites: str | Sequence[str] | None = None,
    part: str = "posterior",
) -> lx.AbstractLinearOperator:
    """Return the Hessian of minus the log-density of a NumPyro model.

    Parameters
    ----------
    model
        Model bound to its arguments by `posterior`.
    point
        Unconstrained parameters by site, or a fit.
    sites
        Names of sites that vary, all by default; the others are held at the point.
    part
        Part of the density: ``"posterior"``; ``"prior"``, the terms of the latent sites with
        the Jacobians of their transforms; or ``"likelihood"``, all others: observed sites and
        factors.

    Returns
    -------
    lineax.AbstractLinearOperator
        Symmetric operator in the unconstrained coordinates.  Those of a morphology are the
        stretched ones of its prior up to the factor ``stretch.scale``: a Hessian there is that
        in z divided by its square.

    Raises
    ------
    InputError
        For unknown sites or parts, or a point that is not finite (which is not looked at inside
        of `jax.jit`) or has other sites or shapes than the model's parameters.

    Warns
    -----
    UserWarning
        If the model has derivatives in reverse mode only, such as
        ``jax.experimental.ode.odeint``: products are then differences of gradients, at six
        gradients each, with relative errors of about a thousandth in single precision.
    """
    bound = posterior(model)
    u = point.params if isinstance(point, MAPResult) else dict(point)
    u = {name: floating(value) for name, value in u.items()}
    check_point(bound.shapes(), u, "a Hessian")
    names = tuple(u) if sites is None else (sites,) if isinstance(sites, str) else tuple(sites)
    for name in names:
        if name not in u:
            raise InputError(f"there is no site {name!r}; the sites are {', '.join(u)}.")
    if part not in ("posterior", "prior", "likelihood"):
        raise InputError(f"`part` must be 'posterior', 'prior' or 'likelihood', got {part!r}.")
    known = [value for value in u.values() if not isinstance(value, jax.core.Tracer)]
    if not all(np.isfinite(np.asarray(value)).all() for value in known):
        raise InputError("the point of a Hessian must be finite; some values of it are not.")
    rest = {n: v for n, v in u.items() if n not in names}
    function, varied = _Part(bound, rest, part), {n: u[n] for n in names}
    operator = hessian(function, varied)
    if is_differentiable(jax.vmap(operator.mv), jax.tree.map(lambda a: a[None], varied)):
        return operator
    warnings.warn(f"{DIFFERENCES}.", UserWarning, stacklevel=2)
    return differenced_hessian(function, varied)


class Estimate(NamedTuple):
    """A number or tree with its standard error, zero where it is exact.

    Attributes
    ----------
    value, standard_error
        Trees of one structure.
    num_products
        Number of products with the operator.
    """

    value: Any
    standard_error: Any
    num_products: int


def hessian_diagonal(
    model: Callable | Posterior,
    point: dict | MAPResult,
    *,
    sites: str | Sequence[str] | None = None,
    part: str = "posterior",
    **options: Any,
) -> Estimate:
    """Estimate the diagonal of a model's Hessian: `diagonal` of `hessian_operator`.

    Parameters
    ----------
    model, point, sites, part
        Arguments of `hessian_operator`.
    **options
        Arguments of `diagonal`; the default method is ``"exact"`` up to 1,024 dimensions.

    Returns
    -------
    Estimate
        Trees by site.
    """
    return diagonal(hessian_operator(model, point, sites=sites, part=part), **options)


def diagonal(
    operator: lx.AbstractLinearOperator,
    *,
    key=None,
    method: str | None = None,
    num_probes: int | None = None,
    relative_error: float | None = None,
    shift: float = 0.0,
    chunk: int = CHUNK,
    progress: Progress = False,
) -> Estimate:
    r"""Estimate the diagonal of a symmetric operator.

    Parameters
    ----------
    operator
        Result of `hessian`, or any other operator of lineax.
    key
        Random key for the probes of the estimators.
    method
        ``"exact"``: one product per dimension.  ``"hutchinson"``: the mean of
        :math:`v \odot H v` over random signs v.  ``"xdiag"``: Hutchinson's estimate of
        the remainder of a low-rank approximation from the same products, leaving one out
        (matfree); the mean of eight independent runs, which share the probes among
        them, at two products per probe.
    num_probes
        Number of probes, 100 by default; with `relative_error` the largest number.
    relative_error
        Relative standard error at which to stop, in Euclidean norms over the diagonal;
        ``"hutchinson"`` only.
    shift
        Multiple of the identity to subtract for ``"xdiag"``: for a prior of noise level
        sigma the Hessian is :math:`(1 - J)/\sigma^2` with J the Jacobian of the denoiser,
        and J, of low rank, is well approximated.
    chunk
        Number of products at once.
    progress
        True for a bar, or a function called as ``progress(done, total, text)``.

    Returns
    -------
    Estimate
        Diagonal with standard errors of the mean over the probes, or over the independent
        runs of xdiag: the scatter of its leave-one-out estimates, which are correlated,
        was two thirds of the true error.

    Raises
    ------
    InputError
        For an unknown method, or fewer than two probes, which give no standard error.
    KeyboardInterrupt
        On Ctrl-C in an exact computation; an estimate ends with the probes so far.

    References
    ----------
    .. [1] Bekas, Kokiopoulou & Saad (2007), Applied Numerical Mathematics 57.
    .. [2] Epperly, Tropp & Webber (2024), SIAM J. Matrix Anal. Appl. 45.
    """
    _check_method(method, ("exact", "hutchinson", "xdiag"), relative_error)
    structure = operator.in_structure()
    size = _dimension(structure)
    method = method or ("exact" if size <= EXACT and relative_error is None else "hutchinson")
    if method == "exact":
        value = _exact_diagonal(operator, chunk, progress)
        return Estimate(value, jax.tree.map(jnp.zeros_like, value), size)
    probes = _number_of_probes(num_probes, relative_error)
    if method == "xdiag":
        each = _per_run(probes, size)
        runs = _xdiag(operator, _need(key, method), each, jnp.asarray(shift))
        return _mean_of_runs(runs, 2 * REPEATS * each)
    return _hutchinson(
        operator, _need(key, method), probes, relative_error, min(chunk, probes), progress
    )


def trace(
    operator: lx.AbstractLinearOperator,
    *,
    key=None,
    method: str | None = None,
    num_probes: int | None = None,
    chunk: int = CHUNK,
    shift: float = 0.0,
) -> Estimate:
    """Estimate the trace of a symmetric operator.

    Parameters
    ----------
    operator, key, num_probes, chunk, shift
        Arguments of `diagonal`.
    method
        Method: ``"exact"``, ``"hutchinson"``, or ``"xtrace"`` (the exchangeable form of Hutch++,
        by matfree; the mean of eight independent runs, at two products per probe).
    """
    _check_method(method, ("exact", "hutchinson", "xtrace"), None)
    size = _dimension(operator.in_structure())
    method = method or ("exact" if size <= EXACT else "hutchinson")
    if method == "exact":
        found = _exact_diagonal(operator, chunk, False)
        total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(found))
        return Estimate(total, jnp.zeros_like(total), size)
    probes = _number_of_probes(num_probes, None)
    if method == "xtrace":
        each = _per_run(probes, size)
        runs = _xtrace(operator, _need(key, method), each, jnp.asarray(shift))
        return _mean_of_runs(runs, 2 * REPEATS * each)
    # The traces of single probes, not the errors of the diagonal: its elements are correlated.
    totals = np.concatenate(
        [
            np.asarray(
                _probe_traces(operator, _need(key, method), np.int32(first), min(chunk, probes))
            )
            for first in range(0, probes, min(chunk, probes))
        ]
    )[:probes]
    return Estimate(totals.mean(), totals.std(ddof=1) / np.sqrt(probes), probes)


def eigenpairs(
    operator: lx.AbstractLinearOperator, number: int, *, key, steps: int | None = None
) -> RitzPairs:
    """Return the largest eigenvalues of a symmetric operator and their vectors, by Lanczos.

    Parameters
    ----------
    operator
        Operator, as for `diagonal`; for the smallest eigenvalues use ``-operator``.
    number
        Number of eigenvalues.
    key
        Random key for the first vector.
    steps
        Number of products; ``2 * number + 40`` by default.

    Returns
    -------
    RitzPairs
        Pairs by ascending eigenvalue; vectors are flat, as `jax.flatten_util.ravel_pytree`
        orders the parameters.  `residuals` bound the errors of the values.
    """
    structure = operator.in_structure()
    size = _dimension(structure)
    if not 1 <= number <= size:
        raise InputError(f"`number` of eigenpairs must be between 1 and {size}, got {number}.")
    steps = min(2 * number + 40 if steps is None else steps, size)
    if steps < number:
        raise InputError(f"{number} eigenpairs take at least as many `steps`, got {steps}.")
    dtype = jnp.result_type(*jax.tree.leaves(structure))
    found = ritz_pairs(partial(_product, operator), jnp.zeros(size, dtype), steps, key)
    return RitzPairs(found.values[-number:], found.vectors[:, -number:], found.residuals[-number:])


def _check_method(method, known, relative_error) -> None:
    if method is not None and method not in known:
        raise InputError(f"unknown method {method!r}; there are {', '.join(known)}.")
    if relative_error is not None:
        if method not in (None, "hutchinson"):
            raise InputError(f"`relative_error` goes with method='hutchinson', not {method!r}.")
        if not relative_error > 0:
            raise InputError(f"`relative_error` must be positive, got {relative_error}.")


def _number_of_probes(num_probes, relative_error) -> int:
    if num_probes is None:
        return 100 if relative_error is None else MOST_PROBES
    if num_probes < 2:
        raise InputError(
            f"`num_probes` must be at least 2, got {num_probes}: one probe has no standard error."
        )
    return int(num_probes)


def _per_run(probes: int, size: int) -> int:
    each = probes // REPEATS
    if not 2 <= each <= size:
        raise InputError(
            f"`num_probes` must be between {2 * REPEATS} and {REPEATS * size} here, got {probes}: "
            f"{REPEATS} independent runs share them."
        )
    return each


def _mean_of_runs(runs, num_products: int) -> Estimate:
    """Return the mean of few runs, with errors for which squared deviations average to one.

    With so few runs the usual standard error is itself uncertain, and deviations in
    units of it follow Student's t, whose variance is (n - 1) / (n - 3).
    """
    factor = np.sqrt((REPEATS - 1) / (REPEATS - 3) / REPEATS)
    mean = jax.tree.map(lambda leaf: leaf.mean(0), runs)
    error = jax.tree.map(lambda leaf: leaf.std(0, ddof=1) * factor, runs)
    return Estimate(mean, error, num_products)


def _need(key, method):
    if key is None:
        raise InputError(f"method={method!r} draws random probes; give a `key`.")
    return key


def _dimension(structure) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(structure))


def flat_product(operator, vector):
    """Return the product with a flat vector ``[d]``: the operator's tree, raveled."""
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure())
    _, unravel = ravel_pytree(zeros)
    return ravel_pytree(operator.mv(unravel(vector)))[0]


def _unraveled(operator, vector):
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure())
    return ravel_pytree(zeros)[1](vector)


_product = Kept(flat_product)


@Kept
def _rows(operator, first, count):
    """Return rows ``[count, d]`` of the matrix from `first` on; zeros beyond the last."""
    size = _dimension(operator.in_structure())
    dtype = jnp.result_type(*jax.tree.leaves(operator.in_structure()))
    units = (jnp.arange(size) == first + jnp.arange(count)[:, None]).astype(dtype)
    return jax.vmap(partial(flat_product, operator))(units)


def _row_blocks(operator, chunk, progress):
    """Yield numbers of the first and last row, and the rows, block by block."""
    size = _dimension(operator.in_structure())
    chunk = min(chunk, size)
    with reporting(progress, "hessian", size) as report, deferred_interrupt() as interrupt:
        for first in range(0, size, chunk):
            last = min(first + chunk, size)
            yield first, last, np.asarray(_rows(operator, np.int32(first), chunk))[: last - first]
            report(last, size, "rows of the Hessian")
            if interrupt and last < size:
                raise KeyboardInterrupt


def matrix(
    operator: lx.AbstractLinearOperator, *, chunk: int = CHUNK, progress: Progress = False
) -> np.ndarray:
    """Return the matrix ``[d, d]`` of a symmetric operator, by a product for each dimension.

    Parameters
    ----------
    operator, chunk, progress
        Arguments of `diagonal`.
    """
    return np.concatenate([rows for _, _, rows in _row_blocks(operator, chunk, progress)])


def _exact_diagonal(operator, chunk, progress):
    parts = [
        rows[np.arange(last - first), np.arange(first, last)]
        for first, last, rows in _row_blocks(operator, chunk, progress)
    ]
    return _unraveled(operator, jnp.asarray(np.concatenate(parts)))


def _probes(operator, key, first, count):
    """Return signs ``[count, d]`` of the probes from `first` on; each depends on key and number."""
    size = _dimension(operator.in_structure())
    dtype = jnp.result_type(*jax.tree.leaves(operator.in_structure()))
    keys = jax.vmap(partial(jax.random.fold_in, key))(first + jnp.arange(count))
    return jax.vmap(lambda k: jax.random.rademacher(k, (size,), dtype))(keys)


@Kept
def _hutchinson_block(operator, key, first, count, use):
    """Return sum and sum of squares of ``v * H v`` over the probes of a block."""
    signs = _probes(operator, key, first, count)
    each = signs * jax.vmap(partial(flat_product, operator))(signs)
    each *= (jnp.arange(count) < use)[:, None]
    mean = each.sum(0) / use
    # About the block's own mean: the squares of a large diagonal would hide its scatter.
    spread = ((each - mean) ** 2 * (jnp.arange(count) < use)[:, None]).sum(0)
    return mean, spread


@Kept
def _probe_traces(operator, key, first, count):
    signs = _probes(operator, key, first, count)
    return jnp.sum(signs * jax.vmap(partial(flat_product, operator))(signs), axis=1)


def _hutchinson(operator, key, probes, relative_error, chunk, progress):
    size = _dimension(operator.in_structure())
    done, mean, spread, error = 0, np.zeros(size), np.zeros(size), np.zeros(size)
    with reporting(progress, "hessian", probes) as report, deferred_interrupt() as interrupt:
        while done < probes:
            use = min(chunk, probes - done)
            new_mean, new_spread = (
                np.asarray(a, float)
                for a in _hutchinson_block(operator, key, np.int32(done), chunk, np.int32(use))
            )
            # Chan, Golub & LeVeque's update of a mean and a sum of squares.
            step = new_mean - mean
            spread = spread + new_spread + step**2 * (done * use / (done + use))
            mean = mean + step * (use / (done + use))
            done += use
            error = np.sqrt(spread / max(done - 1, 1) / done)
            reached = float(np.linalg.norm(error) / (np.linalg.norm(mean) + 1e-300))
            report(done, probes, f"relative error {reached:.2g}")
            if relative_error is not None and done > 1 and reached <= relative_error:
                break
            if interrupt:
                break
    dtype = jnp.result_type(*jax.tree.leaves(operator.in_structure()))
    tree = partial(_unraveled, operator)
    return Estimate(tree(jnp.asarray(mean, dtype)), tree(jnp.asarray(error, dtype)), done)


@Kept
def _xdiag(operator, key, probes, shift):
    """Return runs of matfree's XDiag of ``H - shift``, with the shift added again."""
    product, flat = _shifted(operator, shift)
    estimate = stochtrace.estimator_leave_one_out(
        stochtrace.leave_one_out_xdiag(), sampler=stochtrace.sampler_signs(flat, num=probes)
    )
    runs = jax.lax.map(lambda k: estimate(product, k) + shift, jax.random.split(key, REPEATS))
    return jax.vmap(partial(_unraveled, operator))(runs.astype(flat.dtype))


@Kept
def _xtrace(operator, key, probes, shift):
    product, flat = _shifted(operator, shift)
    estimate = stochtrace.estimator_leave_one_out(
        stochtrace.leave_one_out_xtrace(), sampler=stochtrace.sampler_normal(flat, num=probes)
    )
    runs = jax.lax.map(lambda k: estimate(product, k), jax.random.split(key, REPEATS))
    return runs + shift * len(flat)


def _shifted(operator, shift):
    """Return the product with ``H - shift`` for flat vectors, and one such vector."""
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure())
    return lambda v: flat_product(operator, v) - shift * v, ravel_pytree(zeros)[0]
