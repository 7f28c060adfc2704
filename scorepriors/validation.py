"""How good a trained prior is: two-sample tests, denoising, and consistency as a density.

Every figure of the report is made by one small function that can be called alone;
`validate_prior` calls them all.  Functions that differentiate take the energy or the
score as a PyTree argument of a jitted function, so a second prior of equal shape
compiles nothing.
"""

import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import blackjax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray
from numpyro.distributions.transforms import Transform

from .distribution import ScorePrior
from .errors import InputError
from .moments import MOMENTS, image_moments
from .networks import ModeNetwork, WienerEnergy, denoise, principal_modes, score, unconfined

#: Noise level at which samples are judged against noisy held-out images.
JUDGED_SIGMA = 0.05

#: Noise level from which noise-free samples are made by one denoising step.
CLEAN_SIGMA = 0.025

#: Noise levels of the denoising figures.
DENOISING_SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 5.0)

#: Acceptance wanted of the chains of `stein_identity`.
ACCEPTANCE = (0.6, 0.9)


#: Chains of `long_chains` in a report.
NUM_LONG_CHAINS = 64


class Criterion(NamedTuple):
    """One figure of the report beside the value that a good prior reaches."""

    label: str
    value: float
    comparison: str
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the figure is on the right side of its limit (NaN never is)."""
        return {
            "<=": self.value <= self.limit,
            "<": self.value < self.limit,
            ">=": self.value >= self.limit,
        }[self.comparison]


def validate_prior(
    prior: ScorePrior,
    train_images: Float[np.ndarray, "train n n"],
    held_out: Float[np.ndarray, "held n n"],
    *,
    key: PRNGKeyArray,
    num: int = 2000,
    progress: Callable | None = None,
) -> dict:
    """Judge a prior by its samples, its denoiser and its density.

    Some minutes on one core for a 32 x 32 prior and ``num=2000``.

    Parameters
    ----------
    prior
        The prior; its `sigma` is used where the density itself is tested, the samples
        are judged at fixed noise levels.
    train_images, held_out
        Clean images ``[N, n, n]``, scaled as the prior is (peak one); disjoint.
    key
        Random key: the report is a function of the arguments, but for ``seconds``.
    num
        Samples, and images of either set, that are compared.
    progress
        Called before every part as ``progress(name of the part)``.

    Returns
    -------
    dict
        Nested, of plain Python numbers and strings, ready for JSON; see `criteria`
        and `passed` for the comparison with what is wanted.  Keys: ``prior``,
        ``protocol``, ``samples`` and ``control`` (each with ``noisy`` and
        ``noise_free``, of `compare_sets`), ``denoising``, ``jacobian``, ``ring``,
        ``shift``, ``stein``, ``long_chains``, ``seconds``.

    Raises
    ------
    InputError
        If a set holds fewer than `num` images, shapes disagree, `num` is below 20 or
        scikit-learn is missing.
    """
    _check_sets(prior, train_images, held_out, num)
    _classifiers()  # missing scikit-learn should not cost the user a minute
    stretch, energy, sigma0 = prior.stretch, prior.energy, float(prior.sigma)
    keys = iter(jr.split(key, 20))
    seconds: dict[str, float] = {}

    def timed(name, function, *args, **kwargs):
        if progress is not None:
            progress(name)
        start = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[name] = round(time.perf_counter() - start, 2)
        return result

    train = oriented_subset(train_images, num, key=next(keys))
    held = oriented_subset(held_out, num, key=next(keys))
    noisy_train = add_noise(train, stretch, JUDGED_SIGMA, key=next(keys))
    noisy_held = add_noise(held, stretch, JUDGED_SIGMA, key=next(keys))
    # The published form differs by a Jacobian only in the density, not in its samples.
    noisy = timed("noisy samples", draw_samples, prior, JUDGED_SIGMA, num, key=next(keys))
    clean = timed("noise-free samples", draw_clean_samples, prior, num, key=next(keys))

    samples: dict[str, dict] = {}
    control: dict[str, dict] = {}
    pairs = (
        ("samples", samples, "noisy", noisy, noisy_held),
        ("samples", samples, "noise_free", clean, held),
        ("control", control, "noisy", noisy_train, noisy_held),
        ("control", control, "noise_free", train, held),
    )
    for what, table, level, images, reference in pairs:
        name = f"{what}, {level.replace('_', '-')}"
        table[level] = timed(name, compare_sets, images, reference, stretch, key=next(keys))

    z_held = np.asarray(stretch.inv(jnp.asarray(held, jnp.float32)))
    z_clean = np.asarray(stretch.inv(jnp.asarray(clean, jnp.float32)))
    linear = linear_part(energy, stretch, train_images)
    report = {
        "prior": {"name": prior.name, "box": int(prior.event_shape[-1]), "sigma0": sigma0},
        "protocol": _protocol(num, sigma0),
        "samples": samples,
        "control": control,
        "denoising": timed(
            "denoising", denoising_table, energy, linear, z_held, key=next(keys)
        ),
        "jacobian": {
            "sigma": sigma0,
            "kappa": timed(
                "jacobian", jacobian_asymmetry, Partial(score, energy),
                add_white_noise(jnp.asarray(z_held[:8]), sigma0, key=next(keys)), sigma0, key=next(keys),
            ),
        },
        "ring": timed("ring", ring_test, energy, z_clean[:256]),
        "shift": timed("shift", shift_cost, energy, z_held[:256], sigma0),
    }  # fmt: skip
    start = timed("chain starts", draw_samples, prior, sigma0, 64, key=next(keys))
    report["stein"] = timed(
        "stein", stein_identity, energy, stretch.inv(jnp.asarray(start)), sigma0, key=next(keys)
    )
    noisy_train = add_noise(train, stretch, sigma0, key=next(keys))[:NUM_LONG_CHAINS]
    report["long_chains"] = timed(
        "long chains", long_chains, energy, stretch, stretch.inv(jnp.asarray(noisy_train)),
        add_noise(held, stretch, sigma0, key=next(keys)), sigma0, key=next(keys),
    )  # fmt: skip
    report["seconds"] = seconds
    return report


def criteria(report: dict) -> dict[str, Criterion]:
    """Collect the figures that decide, each with its limit, by a short name.

    The limits are what a good 32 x 32 prior of simulated galaxies reaches; for other
    training sets they are a yardstick, not a law.
    """
    noisy, clean = report["samples"]["noisy"], report["samples"]["noise_free"]
    table = report["denoising"]
    ratio = dict(zip(table["sigma"], table["ratio"], strict=True))[JUDGED_SIGMA]
    ring, stein, long = report["ring"], report["stein"], report["long_chains"]
    level = f"sigma = {JUDGED_SIGMA:g}"
    found = {
        "trees_auc_noisy": Criterion(f"boosted trees AUC, {level}", noisy["trees_auc"], "<=", 0.56),
        "trees_auc_noise_free": Criterion(
            "boosted trees AUC, noise-free", clean["trees_auc"], "<=", 0.65
        ),
    }
    for name in ("flux", "size", "ellipticity", "concentration"):
        found[f"ks_{name}"] = Criterion(f"KS of {name}, {level}", noisy["ks"][name], "<=", 0.06)
    found |= {
        "one_maximum": Criterion(
            f"samples with one maximum, {level}", noisy["one_maximum"], ">=", 0.995
        ),
        "denoising": Criterion(f"denoising rms over Wiener filter's, {level}", ratio, "<=", 0.40),
        "kappa": Criterion("asymmetry of the score's Jacobian", report["jacobian"]["kappa"], "<=", 1e-5),
        "ring_sign": Criterion("mean score on a foreign ring", ring["on_ring"], "<", 0.0),
        "ring_contrast": Criterion(
            "score on the ring over the mean absolute one elsewhere", ring["ratio"], ">=", 10.0
        ),
        "stein": Criterion(
            "Stein identity, deviation in standard errors", stein["deviation"], "<=", 2.0
        ),
        "long_chains_auc": Criterion(
            f"boosted trees AUC after {long['draws']} HMC transitions", long["trees_auc"], "<=", 0.65
        ),
        "long_chains_drift": Criterion(
            f"energy drift after {long['draws']} HMC transitions, standard deviations",
            abs(long["drift"]), "<=", 0.5,
        ),
    }  # fmt: skip
    return found


def passed(report: dict) -> dict[str, bool]:
    """Whether each of `criteria` is met by a report of `validate_prior`."""
    return {name: bool(criterion.passed) for name, criterion in criteria(report).items()}


# ---- images on both sides ----------------------------------------------------------


def oriented_subset(
    images: Float[np.ndarray, "N n n"], num: int, *, key: PRNGKeyArray
) -> Float[np.ndarray, "num n n"]:
    """Pick `num` images without repetition, each in one of its eight orientations.

    A prior is trained on all rotations and reflections, so the images that it is
    compared with must come in all of them too.
    """
    key_pick, key_turn = jr.split(key)
    pick = np.asarray(jr.permutation(key_pick, len(images)))[:num]
    turn = np.asarray(jr.randint(key_turn, (len(pick),), 0, 8))
    chosen = np.array(images[pick], np.float32)
    for quarter in range(4):
        for flip in range(2):
            which = turn == 2 * quarter + flip
            turned = np.rot90(chosen[which], quarter, axes=(1, 2))
            chosen[which] = turned[:, :, ::-1] if flip else turned
    return chosen


def add_white_noise(z: Float[Array, "N n n"], sigma: float, *, key: PRNGKeyArray):
    """Add Gaussian noise of standard deviation `sigma` to stretched images."""
    z = jnp.asarray(z)
    return z + sigma * jr.normal(key, z.shape, z.dtype)


def add_noise(
    images: Float[np.ndarray, "N n n"], stretch: Transform, sigma: float, *, key: PRNGKeyArray
) -> np.ndarray:
    """Add the noise of a prior at `sigma`: Gaussian in the stretched space, mapped back."""
    z = stretch.inv(jnp.asarray(images, jnp.float32))
    return np.asarray(stretch(add_white_noise(z, sigma, key=key)))


def draw_samples(prior: ScorePrior, sigma: float, num: int, *, key: PRNGKeyArray) -> np.ndarray:
    """Draw `num` images of the prior at `sigma`, its noise included."""
    return np.asarray(prior.at(sigma).sample(key, (num,)))


def draw_clean_samples(prior: ScorePrior, num: int, *, key: PRNGKeyArray) -> np.ndarray:
    """Draw at a low noise (`CLEAN_SIGMA`) and remove that by one denoising step."""
    low = prior.at(CLEAN_SIGMA)
    noisy = low.sample(key, (num,))
    clean = _denoised(prior.energy, prior.stretch.inv(noisy), low.sigma)
    return np.asarray(prior.stretch(clean))


# ---- two-sample tests --------------------------------------------------------------


def compare_sets(
    images: Float[np.ndarray, "N n n"],
    reference: Float[np.ndarray, "M n n"],
    stretch: Transform,
    *,
    key: PRNGKeyArray,
) -> dict:
    """Compare two sets of images by classifiers and by the distributions of moments.

    Parameters
    ----------
    images, reference
        Intensities; the sets need not be equally large.
    stretch
        The pixel classifier sees the stretched images.
    key
        Seeds the classifiers and their folds.

    Returns
    -------
    dict
        ``trees_auc`` and ``pixel_auc`` (0.5: indistinguishable, 1: always told apart),
        ``trees_auc_without_border`` (the mean of the border is nothing but the noise of
        the faintest pixels in noise-free samples), ``ks`` by moment, ``one_maximum`` and ``one_maximum_reference`` (the share of
        either set with exactly one maximum).
    """
    key_trees, key_pixels = jr.split(key)
    ours, theirs = image_moments(images), image_moments(reference)
    z_ours, z_theirs = (
        np.asarray(stretch.inv(jnp.asarray(x, jnp.float32))) for x in (images, reference)
    )
    without_border = [name for name in ours if name != "border_over_peak"]
    return {
        "trees_auc": trees_auc(_columns(ours), _columns(theirs), key=key_trees),
        "trees_auc_without_border": trees_auc(
            _columns(ours, without_border), _columns(theirs, without_border), key=key_trees
        ),
        "pixel_auc": pixel_auc(z_ours, z_theirs, key=key_pixels),
        "ks": {name: ks_distance(ours[name], theirs[name]) for name in ours},
        "one_maximum": float(np.mean(ours["num_maxima"] == 1)),
        "one_maximum_reference": float(np.mean(theirs["num_maxima"] == 1)),
    }


def trees_auc(
    features: Float[np.ndarray, "N f"],
    reference: Float[np.ndarray, "M f"],
    *,
    key: PRNGKeyArray,
) -> float:
    """Area under the curve of gradient-boosted trees telling two tables of features apart.

    Scikit-learn's ``HistGradientBoostingClassifier`` as it comes, its probabilities
    cross-validated in five folds.
    """
    trees, _ = _classifiers()
    return _cross_validated_auc(trees(random_state=_seed(key)), features, reference, 5, key)


def pixel_auc(
    z: Float[np.ndarray, "N n n"],
    reference: Float[np.ndarray, "M n n"],
    *,
    key: PRNGKeyArray,
    num_components: int = 64,
) -> float:
    """Area under the curve of a small network that sees pixels, in two folds.

    The leading principal components of the pooled stretched images, divided by one common
    scale, enter a perceptron with hidden layers of 64 and 32.  Components scaled to unit
    variance each would drown the few that carry shape in those that carry noise.
    """
    _, network = _classifiers()
    pooled = np.concatenate([z, reference]).reshape(len(z) + len(reference), -1)
    num_components = min(num_components, *pooled.shape)
    centred = pooled - pooled.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    # The leading component gets a standard deviation of 3: most of the rest are below 1.
    scale = np.sqrt(max(values[-1], 1e-30)) / 3
    features = centred @ vectors[:, -num_components:] / scale
    # Few passes and a strong penalty: there are more weights than images.
    classifier = network((64, 32), alpha=1.0, max_iter=60, random_state=_seed(key))
    return _cross_validated_auc(classifier, features[: len(z)], features[len(z) :], 2, key)


def ks_distance(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " M"]) -> float:
    """Kolmogorov-Smirnov distance: the largest gap between two cumulative distributions.

    Two sets of N equal draws exceed ``1.36 sqrt(2 / N)`` in 5 % of cases.
    """
    a, b = np.sort(a), np.sort(b)
    every = np.concatenate([a, b])
    gap = np.searchsorted(a, every, "right") / len(a) - np.searchsorted(b, every, "right") / len(b)
    return float(np.abs(gap).max())


def _cross_validated_auc(classifier, features, reference, num_folds, key) -> float:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    x = np.concatenate([features, reference])
    label = np.repeat([1, 0], [len(features), len(reference)])
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=_seed(key))
    with warnings.catch_warnings():
        # A classifier that would learn more still gives an honest held-out figure.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probability = cross_val_predict(classifier, x, label, cv=folds, method="predict_proba")
    return float(roc_auc_score(label, probability[:, 1]))


def _classifiers():
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise InputError(
            "validating a prior needs scikit-learn: pip install 'scorepriors[validation]'."
        ) from error
    return HistGradientBoostingClassifier, MLPClassifier


def _columns(moments: dict[str, np.ndarray], names=MOMENTS) -> np.ndarray:
    return np.stack([moments[name] for name in names], 1)


def _seed(key: PRNGKeyArray) -> int:
    return int(jr.randint(key, (), 0, 2**31 - 1))


# ---- denoising ---------------------------------------------------------------------


def denoising_table(
    energy: Callable,
    linear: Callable,
    z: Float[Array, "N n n"],
    *,
    key: PRNGKeyArray,
    sigmas: tuple[float, ...] = DENOISING_SIGMAS,
) -> dict[str, list[float]]:
    """Rms error of the denoised images, in units of the noise, at several noise levels.

    Parameters
    ----------
    energy
        The energy to judge.
    linear
        The energy of the Wiener filter, see `linear_part`.  It denoises the same noise.
    z
        Clean stretched images, held out from training.
    key
        Random key of the noise.
    sigmas
        Noise levels.

    Returns
    -------
    dict
        Lists ``sigma``, ``energy``, ``wiener`` and ``ratio`` (of the two).
    """
    table: dict[str, list[float]] = {"sigma": [], "energy": [], "wiener": [], "ratio": []}
    z = jnp.asarray(z)
    for sigma, key_noise in zip(sigmas, jr.split(key, len(sigmas)), strict=True):
        noise = jr.normal(key_noise, z.shape, z.dtype)
        level = jnp.asarray(sigma, z.dtype)
        ours = float(_denoising_rms(energy, z, noise, level))
        wiener = float(_denoising_rms(linear, z, noise, level))
        row = {"sigma": float(sigma), "energy": ours, "wiener": wiener, "ratio": ours / wiener}
        for name, value in row.items():
            table[name].append(value)
    return table


def linear_part(
    energy: Callable, stretch: Transform, train_images: Float[np.ndarray, "N n n"]
) -> WienerEnergy:
    """Make the energy of the Wiener filter: a Gaussian with the covariance of the set.

    Of a `WienerEnergy` it is the energy itself with the network's output set to zero; for
    any other it is made anew from up to 20,000 training images and 192 modes.
    """
    if isinstance(energy, WienerEnergy):
        last = energy.network.leave
        zeros = jax.tree.map(jnp.zeros_like, (last.weight, last.bias))
        energy = unconfined(energy)
        return eqx.tree_at(lambda e: (e.network.leave.weight, e.network.leave.bias), energy, zeros)
    z = np.asarray(stretch.inv(jnp.asarray(train_images[:20_000], jnp.float32)))
    modes = min(192, z[0].size)
    # An untrained network gives zero, so the smallest one will do.
    network = ModeNetwork(modes, 1, 1, 0, key=jr.key(0))
    mean, basis, values, tail = (jnp.asarray(a, jnp.float32) for a in principal_modes(z, modes))
    return WienerEnergy(mean, basis, values, tail, network)


@eqx.filter_jit
def _denoised(energy, z, sigma):
    return jax.vmap(lambda one: denoise(energy, one, sigma))(z)


@eqx.filter_jit
def _denoising_rms(energy, z, noise, sigma):
    error = _denoised(energy, z + sigma * noise, sigma) - z
    return jnp.sqrt(jnp.mean((error / sigma) ** 2))


# ---- consistency as a density ------------------------------------------------------


def jacobian_asymmetry(
    score_fn: Callable,
    z: Float[Array, "N n n"],
    sigma: float,
    *,
    key: PRNGKeyArray,
    num_probes: int = 8,
) -> float:
    r"""Asymmetry of the Jacobian J of a score: zero if and only if it is a gradient.

    .. math:: \kappa = \frac{\| J - J^T \|_F}{\| J + J^T \|_F},

    both norms from products with normal probes v, :math:`\|A\|_F^2 = E |A v|^2`,
    averaged over images and probes.  One JVP and one VJP per probe, in float64: the
    rounding of float32 alone would give about 1e-7.

    Parameters
    ----------
    score_fn
        ``(z [n, n], sigma) -> score [n, n]``.  A PyTree such as
        ``jax.tree_util.Partial(score, energy)`` compiles once for all of its shape.
    z
        Stretched images at which to look, noise of `sigma` included.
    sigma
        Noise level.
    key
        Random key of the probes.
    num_probes
        Probes per image.

    Returns
    -------
    float
        Between 0 and 1 for a score near a gradient; about 1 for a random field.

    Examples
    --------
    >>> z = jnp.zeros((1, 4, 4))
    >>> jacobian_asymmetry(lambda z, sigma: -z / sigma**2, z, 0.1, key=jr.key(0))
    0.0
    """
    with jax.enable_x64(True):
        score_fn = jax.tree.map(_as_double, score_fn)
        z, level = jnp.asarray(z, jnp.float64), jnp.asarray(sigma, jnp.float64)
        probes = jr.normal(key, (num_probes, *z.shape), jnp.float64)
        difference, total = _asymmetry(score_fn, z, level, probes)
        return float(np.sqrt(float(difference) / float(total)))


@eqx.filter_jit
def _asymmetry(score_fn, z, sigma, probes):
    def at_one(one, probe):
        _, forward = jax.jvp(lambda x: score_fn(x, sigma), (one,), (probe,))
        _, pull = jax.vjp(lambda x: score_fn(x, sigma), one)
        (backward,) = pull(probe)
        return jnp.sum((forward - backward) ** 2), jnp.sum((forward + backward) ** 2)

    difference, total = jax.vmap(lambda v: jax.vmap(at_one)(z, v))(probes)
    return difference.sum(), total.sum()


def _as_double(leaf):
    return leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf


def ring_test(
    energy: Callable,
    z: Float[Array, "N n n"],
    *,
    sigma: float = 0.1,
    amplitude: float = 1.0,
    radius: float | None = None,
) -> dict[str, float]:
    """Add a ring that no galaxy has and see whether the score takes it away.

    After Sampson et al. (2024), figure 4.

    Parameters
    ----------
    energy
        The energy to judge.
    z
        Noise-free stretched images.
    sigma
        Noise level of the score.
    amplitude
        Height of the ring in the stretched space.
    radius
        Radius in pixels about the centre of the box, 9/32 of the box by default; the
        ring is one pixel wide.

    Returns
    -------
    dict
        ``on_ring`` and ``elsewhere``: mean score of the images with the ring, on it and
        off it; ``abs_elsewhere``: mean absolute score off it; ``abs_elsewhere_without``:
        the same for the images as they came; ``ratio``: minus ``on_ring`` over
        ``abs_elsewhere``; ``drop``: mean fall of the log-density.  Stretched units.
    """
    z = jnp.asarray(z)
    size = z.shape[-1]
    radius = 9 * size / 32 if radius is None else radius
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    ring = np.abs(np.hypot(y, x) - radius) <= 0.5
    level = jnp.asarray(sigma, z.dtype)
    before, score_before = _log_prob_and_score(energy, z, level)
    disturbed = z + amplitude * jnp.asarray(ring, z.dtype)
    after, score_after = _log_prob_and_score(energy, disturbed, level)
    score_before, score_after = np.asarray(score_before), np.asarray(score_after)
    on_ring = float(score_after[:, ring].mean())
    elsewhere = float(np.abs(score_after[:, ~ring]).mean())
    return {
        "sigma": float(sigma),
        "amplitude": float(amplitude),
        "radius": float(radius),
        "on_ring": on_ring,
        "elsewhere": float(score_after[:, ~ring].mean()),
        "abs_elsewhere": elsewhere,
        "abs_elsewhere_without": float(np.abs(score_before[:, ~ring]).mean()),
        "ratio": -on_ring / max(elsewhere, 1e-12),
        "drop": float(np.mean(np.asarray(before) - np.asarray(after))),
    }


def shift_cost(
    energy: Callable, z: Float[Array, "N n n"], sigma: float, *, shifts: tuple = (1, 2, 3)
) -> dict[str, list[float]]:
    """Mean fall of the log-density when images are moved by whole pixels along one axis.

    How strictly the prior wants its galaxies centred: lists ``pixels`` and ``drop``.
    The pixels uncovered at the edge repeat their neighbours.
    """
    z = jnp.asarray(z)
    level = jnp.asarray(sigma, z.dtype)
    before, _ = _log_prob_and_score(energy, z, level)
    drops = []
    for shift in shifts:
        moved = jnp.pad(z, ((0, 0), (shift, 0), (0, 0)), mode="edge")[:, : z.shape[1]]
        after, _ = _log_prob_and_score(energy, moved, level)
        drops.append(float(jnp.mean(before - after)))
    return {"pixels": [int(s) for s in shifts], "drop": drops}


@eqx.filter_jit
def _log_prob_and_score(energy, z, sigma):
    value, gradient = jax.vmap(jax.value_and_grad(energy), (0, None))(z, sigma)
    return -value, -gradient


def stein_identity(
    energy: Callable,
    start: Float[Array, "chains n n"],
    sigma: float,
    *,
    key: PRNGKeyArray,
    num_draws: int = 200,
    num_warmup: int = 100,
    num_leapfrog: int = 6,
) -> dict[str, float]:
    r"""Test :math:`E[z \cdot \nabla\log p(z)] = -n^2` on Markov chains of the density.

    It holds for any normalisable density of :math:`n^2` variables that falls off fast,
    and a factor in the score that the log-density does not have breaks it.  The chains
    are Hamiltonian Monte Carlo in the stretched space, whose Metropolis test looks at
    values of the log-density only, so draws and gradient are independent witnesses.

    Parameters
    ----------
    energy
        The energy; the density is ``exp(-energy(z, sigma))``.
    start
        Stretched images, one per chain, drawn from the prior at `sigma`.
    sigma
        Noise level, which also sets the scale of the step.
    key
        Random key.
    num_draws, num_warmup
        Transitions kept and before them, rounded up to whole windows of 20.  In the
        warm-up the step size, one for all chains, moves until the mean acceptance
        stays within `ACCEPTANCE`; it is fixed afterwards.
    num_leapfrog
        Leapfrog steps per transition.

    Returns
    -------
    dict
        ``mean``, its ``standard_error`` from the spread of the chains, the
        ``expected`` value, their ``deviation`` in standard errors, the mean of
        :math:`|z|^2` at the start and at the end, ``acceptance``, ``step_size`` and the
        numbers of chains and draws.

    Raises
    ------
    InputError
        If there are fewer than two chains.

    Notes
    -----
    The identity holds for chains in equilibrium.  Along Langevin dynamics
    :math:`d E|z|^2 / dt = 2 (E[z \cdot \nabla\log p] + n^2)`, so a mean above the
    expected value says that the chains are still moving outwards: the density has mass
    where the samples that they started from have none.
    """
    if len(start) < 2:
        raise InputError(f"the standard error needs at least 2 chains, got {len(start)}.")
    window = 20
    num_warm, num_kept = -(-num_warmup // window), max(1, -(-num_draws // window))
    z = jnp.asarray(start).reshape(len(start), -1)
    level = jnp.asarray(sigma, z.dtype)
    squares_start = float(jnp.mean(jnp.sum(z**2, axis=1)))
    step = first_step(sigma, z.shape[1])
    statistics, acceptances = [], []
    for number, key_window in enumerate(jr.split(key, num_warm + num_kept)):
        z, statistic, _, acceptance = _hmc_window(
            energy, z, level, jnp.asarray(step, z.dtype), key_window, window, num_leapfrog
        )
        if number < num_warm:
            middle = sum(ACCEPTANCE) / 2
            step *= float(np.exp(1.5 * (float(acceptance) - middle)))
        else:
            statistics.append(np.asarray(statistic, np.float64))
            acceptances.append(float(acceptance))
    by_chain = np.concatenate(statistics).mean(0)
    mean, error = by_chain.mean(), by_chain.std(ddof=1) / np.sqrt(len(by_chain))
    expected = -float(z.shape[1])
    return {
        "mean": float(mean),
        "standard_error": float(error),
        "expected": expected,
        "deviation": float(abs(mean - expected) / error),
        "squares_start": squares_start,
        "squares_end": float(jnp.mean(jnp.sum(z**2, axis=1))),
        "acceptance": float(np.mean(acceptances)),
        "step_size": float(step),
        "num_leapfrog": int(num_leapfrog),
        "chains": len(by_chain),
        "draws": num_kept * window,
    }


def long_chains(
    energy: Callable,
    stretch: Transform,
    start: Float[Array, "chains n n"],
    reference: Float[np.ndarray, "M n n"],
    sigma: float,
    *,
    key: PRNGKeyArray,
    num_draws: int = 300,
    num_leapfrog: int = 20,
) -> dict[str, float]:
    """See whether Hamiltonian Monte Carlo on the log-density alone stays on galaxies.

    Parameters
    ----------
    energy
        The energy; the density is ``exp(-energy(z, sigma))``.
    stretch
        Of the prior: the ends of the chains are compared as intensities.
    start
        Stretched training images with noise of `sigma`, one per chain.
    reference
        Held-out images with such noise, intensities.
    sigma
        Noise level.
    key
        Random key.
    num_draws
        Transitions, rounded up to whole windows of 20.  The step size, one for all
        chains, moves in the first third until the mean acceptance stays within
        `ACCEPTANCE`.
    num_leapfrog
        Leapfrog steps per transition.

    Returns
    -------
    dict
        ``trees_auc`` of the last draw of every chain against `reference`;
        ``drift``, the mean energy of the last third of the transitions minus that of
        `reference`, in units of the latter's standard deviation over images;
        ``strayed``, the share of chains that end more than ten such below;
        ``acceptance``, ``step_size``, ``num_leapfrog``, ``chains`` and ``draws``.
    """
    window = 20
    num_windows = max(3, -(-num_draws // window))
    z = jnp.asarray(start).reshape(len(start), -1)
    level = jnp.asarray(sigma, z.dtype)
    expected, _ = _log_prob_and_score(energy, stretch.inv(jnp.asarray(reference)), level)
    expected = -np.asarray(expected, np.float64)
    step = first_step(sigma, z.shape[1])
    energies, acceptances = [], []
    for number, key_window in enumerate(jr.split(key, num_windows)):
        z, _, log_prob, acceptance = _hmc_window(
            energy, z, level, jnp.asarray(step, z.dtype), key_window, window, num_leapfrog
        )
        if number < num_windows // 3:
            step *= float(np.exp(1.5 * (float(acceptance) - sum(ACCEPTANCE) / 2)))
        else:
            energies.append(-np.asarray(log_prob, np.float64))
            acceptances.append(float(acceptance))
    late = np.concatenate(energies[-max(1, num_windows // 3) :])
    ends = np.asarray(stretch(z.reshape(start.shape)))
    return {
        "trees_auc": trees_auc(
            _columns(image_moments(ends)), _columns(image_moments(reference)), key=key
        ),
        "drift": float((late.mean() - expected.mean()) / expected.std()),
        "strayed": float(np.mean(late[-1] < expected.mean() - 10 * expected.std())),
        "sigma": float(sigma),
        "acceptance": float(np.mean(acceptances)),
        "step_size": float(step),
        "num_leapfrog": int(num_leapfrog),
        "chains": len(z),
        "draws": num_windows * window,
    }


def first_step(sigma: float, dimension: int) -> float:
    """Step size from which the tuning of chains begins.

    The noise makes every direction as wide as sigma or wider; the acceptance of a
    Gaussian of dimension d is near 0.8 for steps of about 1.2 d^(-1/4) standard deviations.
    """
    return 1.2 * sigma * dimension**-0.25


@eqx.filter_jit
def _hmc_window(energy, z, sigma, step, key, num_draws, num_leapfrog):
    size = round(z.shape[1] ** 0.5)
    kernel = blackjax.hmc.build_kernel()
    unit = jnp.ones(z.shape[1], z.dtype)

    def log_prob(flat):
        return -energy(flat.reshape(size, size), sigma)

    def transition(states, key_draw):
        key_step, key_chains = jr.split(key_draw)
        # A trembling step, the same for all chains, keeps orbits from closing.
        jittered = step * jr.uniform(key_step, (), z.dtype, 0.8, 1.2)
        states, info = jax.vmap(lambda k, s: kernel(k, s, log_prob, jittered, unit, num_leapfrog))(
            jr.split(key_chains, len(z)), states
        )
        statistic = jnp.sum(states.position * states.logdensity_grad, axis=1)
        return states, (statistic, states.logdensity, info.acceptance_rate)

    states = jax.vmap(lambda one: blackjax.hmc.init(one, log_prob))(z)
    states, (statistic, reached, acceptance) = jax.lax.scan(
        transition, states, jr.split(key, num_draws)
    )
    return states.position, statistic, reached, jnp.mean(acceptance)


# ---- the rest ----------------------------------------------------------------------


def _protocol(num: int, sigma0: float) -> dict:
    return {
        "num": int(num),
        "sigma_noisy": JUDGED_SIGMA,
        "sigma_noise_free": CLEAN_SIGMA,
        "sigma_density": sigma0,
        "noisy": (
            f"samples of the prior at sigma = {JUDGED_SIGMA:g} against held-out images with "
            f"Gaussian noise of the same size added in the stretched space"
        ),
        "noise_free": (
            f"samples of the prior at sigma = {CLEAN_SIGMA:g} after one denoising step against "
            f"the clean held-out images, which are not denoised"
        ),
        "control": "training images in place of the samples, all else equal",
        "orientation": "every real image in a random one of its eight rotations and reflections",
        "ring": "noise-free samples with a foreign ring, score at sigma = 0.1",
        "stein": f"Hamiltonian Monte Carlo at sigma = {sigma0:g} from samples of the prior",
    }


def _check_sets(prior, train_images, held_out, num) -> None:
    if num < 20:
        raise InputError(f"`num` must be at least 20 to train a classifier on, got {num}.")
    for name, images in (("train_images", train_images), ("held_out", held_out)):
        if images.ndim != 3 or images.shape[1:] != prior.event_shape:
            raise InputError(
                f"`{name}` must be [N, {prior.event_shape[0]}, {prior.event_shape[1]}], "
                f"got {images.shape}."
            )
        if len(images) < num:
            raise InputError(f"`{name}` holds {len(images)} images, fewer than num = {num}.")
