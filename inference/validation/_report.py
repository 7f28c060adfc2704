"""The report on a prior, the sets of images it compares, and limits for a good prior."""

import time
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray
from numpyro.distributions.transforms import Transform

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._progress import Progress, reporting

from ._chains import long_chains, stein_identity
from ._comparison import classifiers, compare_sets
from ._density import (
    denoised,
    denoising_table,
    jacobian_asymmetry,
    ring_test,
    shift_cost,
    stretched_score,
)

#: Noise level at which samples are compared with noisy held-out images.
JUDGED_SIGMA = 0.05

#: Noise level that one denoising step removes, where noise-free images are compared.
CLEAN_SIGMA = 0.025

#: Number of parts of a validation, for progress reports.
NUM_PARTS = 17

#: Chains of `long_chains` in a report.
NUM_LONG_CHAINS = 64


class Criterion(NamedTuple):
    """One value of the report, and its limit for a good prior."""

    label: str
    value: float
    comparison: str
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the value is on the right side of its limit; False for NaN."""
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
    progress: Progress = False,
) -> dict:
    """Judge a prior by its samples, its denoiser and its density.

    Takes some minutes on one core for a 32 x 32 prior and ``num=2000``.

    Parameters
    ----------
    prior
        The prior; its `sigma` is used where the density itself is tested, the samples
        are judged at fixed noise levels.
    train_images, held_out
        Clean images ``[N, n, n]``, scaled as the prior is (peak one); disjoint.
    key
        Random key: the report is a function of the arguments, except for ``seconds``.
    num
        Number of samples, and of images of either set, that are compared.
    progress
        True for a bar; or a function, called before every part as
        ``progress(done, total, name of the part)``.

    Returns
    -------
    dict
        Nested report of plain Python numbers and strings, ready for JSON; see `criteria`
        and `passed` for the comparison with limits.  Keys: ``prior``,
        ``protocol``, ``samples`` and ``control`` (each with ``noisy``, ``denoised`` and
        ``clean``, of `compare_sets`), ``denoising``, ``jacobian``, ``ring``, ``shift``,
        ``stein``, ``long_chains``, ``seconds``.

    Raises
    ------
    InputError
        If a set holds fewer than `num` images, shapes disagree, `num` is below 20 or
        scikit-learn is not installed.
    """
    _check_sets(prior, train_images, held_out, num)
    classifiers()  # raises at once if scikit-learn is missing
    with reporting(progress, "validate", NUM_PARTS) as said:
        return _validate(prior, train_images, held_out, key, num, said)


def _validate(prior, train_images, held_out, key, num, said) -> dict:
    stretch, sigma0 = prior.stretch, float(prior.sigma)
    keys = iter(jr.split(key, 20))
    # Separate keys, so that the other values for a seed stay those of earlier cards.
    keys_denoised = iter(jr.split(jr.fold_in(key, 1), 4))
    seconds: dict[str, float] = {}

    def timed(name, function, *args, **kwargs):
        said(len(seconds), NUM_PARTS, name)
        start = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[name] = round(time.perf_counter() - start, 2)
        return result

    train = oriented_subset(train_images, num, key=next(keys))
    held = oriented_subset(held_out, num, key=next(keys))
    noisy_train = add_noise(train, stretch, JUDGED_SIGMA, key=next(keys))
    noisy_held = add_noise(held, stretch, JUDGED_SIGMA, key=next(keys))
    # The published form differs by a Jacobian in the density only, not in the samples.
    noisy = timed("noisy samples", draw_samples, prior, JUDGED_SIGMA, num, key=next(keys))
    clean = timed("denoised samples", draw_clean_samples, prior, num, key=next(keys))
    denoised_train, denoised_held = (
        timed(
            f"denoised {name}",
            noise_and_denoise,
            prior,
            images,
            CLEAN_SIGMA,
            key=next(keys_denoised),
        )
        for name, images in (("training images", train), ("held-out images", held))
    )

    samples: dict[str, dict] = {}
    control: dict[str, dict] = {}
    pairs = (
        ("samples", samples, "noisy", noisy, noisy_held),
        ("samples", samples, "denoised", clean, denoised_held),
        ("samples", samples, "clean", clean, held),
        ("control", control, "noisy", noisy_train, noisy_held),
        ("control", control, "denoised", denoised_train, denoised_held),
        ("control", control, "clean", train, held),
    )
    for what, table, level, images, reference in pairs:
        chosen = keys_denoised if level == "denoised" else keys
        table[level] = timed(
            f"{what}, {level}", compare_sets, images, reference, stretch, key=next(chosen)
        )

    z_held = np.asarray(stretch.inv(jnp.asarray(held, jnp.float32)))
    z_clean = np.asarray(stretch.inv(jnp.asarray(clean, jnp.float32)))
    linear = prior.gaussian(train_images)
    report = {
        "prior": {"name": prior.name, "box": int(prior.event_shape[-1]), "sigma0": sigma0},
        "protocol": _protocol(num, sigma0),
        "samples": samples,
        "control": control,
        "denoising": timed("denoising", denoising_table, prior, linear, z_held, key=next(keys)),
        "jacobian": {
            "sigma": sigma0,
            "kappa": timed(
                "jacobian",
                jacobian_asymmetry,
                Partial(stretched_score, prior),
                add_white_noise(jnp.asarray(z_held[:8]), sigma0, key=next(keys)),
                sigma0,
                key=next(keys),
            ),
        },
        "ring": timed("ring", ring_test, prior, z_clean[:256]),
        "shift": timed("shift", shift_cost, prior, z_held[:256], sigma0),
    }
    start = timed("chain starts", draw_samples, prior, sigma0, 64, key=next(keys))
    report["stein"] = timed(
        "stein", stein_identity, prior, stretch.inv(jnp.asarray(start)), sigma0, key=next(keys)
    )
    noisy_train = add_noise(train, stretch, sigma0, key=next(keys))[:NUM_LONG_CHAINS]
    report["long_chains"] = timed(
        "long chains",
        long_chains,
        prior,
        stretch.inv(jnp.asarray(noisy_train)),
        add_noise(held, stretch, sigma0, key=next(keys)),
        sigma0,
        key=next(keys),
    )
    report["seconds"] = seconds
    return report


def criteria(report: dict) -> dict[str, Criterion]:
    """Return the values with limits, by a short name.

    The limits are what a good 32 x 32 prior of simulated galaxies reaches; for other training
    sets they are for orientation.
    """
    noisy, denoised = report["samples"]["noisy"], report["samples"]["denoised"]
    table = report["denoising"]
    ratio = dict(zip(table["sigma"], table["ratio"], strict=True))[JUDGED_SIGMA]
    ring, stein, long = report["ring"], report["stein"], report["long_chains"]
    level = f"sigma = {JUDGED_SIGMA:g}"
    found = {
        "trees_auc_noisy": Criterion(f"boosted trees AUC, {level}", noisy["trees_auc"], "<=", 0.56),
        "trees_auc_denoised": Criterion(
            "boosted trees AUC, both denoised", denoised["trees_auc"], "<=", 0.65
        ),
    }
    for name in ("flux", "size", "ellipticity", "concentration"):
        found[f"ks_{name}"] = Criterion(f"KS of {name}, {level}", noisy["ks"][name], "<=", 0.06)
    found |= {
        "one_maximum": Criterion(
            f"samples with one maximum, {level}", noisy["one_maximum"], ">=", 0.995
        ),
        "denoising": Criterion(f"denoising rms over Wiener filter's, {level}", ratio, "<=", 0.40),
        "kappa": Criterion(
            "asymmetry of the score's Jacobian", report["jacobian"]["kappa"], "<=", 1e-5
        ),
        "ring_sign": Criterion("mean score on a foreign ring", ring["on_ring"], "<", 0.0),
        "ring_contrast": Criterion(
            "score on the ring over the mean absolute one elsewhere", ring["ratio"], ">=", 10.0
        ),
        "stein": Criterion(
            "Stein identity, deviation in standard errors", stein["deviation"], "<=", 2.0
        ),
        "long_chains_auc": Criterion(
            f"boosted trees AUC after {long['draws']} HMC transitions",
            long["trees_auc"],
            "<=",
            0.65,
        ),
        "long_chains_drift": Criterion(
            f"energy drift after {long['draws']} HMC transitions, standard deviations",
            abs(long["drift"]),
            "<=",
            0.5,
        ),
    }
    return found


def passed(report: dict) -> dict[str, bool]:
    """Return whether a report of `validate_prior` meets each of `criteria`."""
    return {name: bool(criterion.passed) for name, criterion in criteria(report).items()}


def oriented_subset(
    images: Float[np.ndarray, "N n n"], num: int, *, key: PRNGKeyArray
) -> Float[np.ndarray, "num n n"]:
    """Pick `num` images without repetition, each in one of its eight orientations.

    A prior is trained on all rotations and reflections, so it must be compared with images
    in all of them too.
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
    return denoise_images(prior, low.sample(key, (num,)), CLEAN_SIGMA)


def noise_and_denoise(
    prior: ScorePrior, images: Float[np.ndarray, "N n n"], sigma: float, *, key: PRNGKeyArray
) -> np.ndarray:
    """Add noise of `sigma` to images and remove it again, as `draw_clean_samples` does."""
    return denoise_images(prior, add_noise(images, prior.stretch, sigma, key=key), sigma)


def denoise_images(
    prior: ScorePrior, images: Float[Array | np.ndarray, "N n n"], sigma: float
) -> np.ndarray:
    """Remove noise of `sigma` from intensities, in one denoising step of the prior."""
    clean = denoised(prior, prior.stretch.inv(jnp.asarray(images)), prior.at(sigma).sigma)
    return np.asarray(prior.stretch(clean))


def _protocol(num: int, sigma0: float) -> dict:
    return {
        "num": int(num),
        "sigma_noisy": JUDGED_SIGMA,
        "sigma_denoised": CLEAN_SIGMA,
        "sigma_density": sigma0,
        "noisy": (
            f"samples of the prior at sigma = {JUDGED_SIGMA:g} against held-out images with "
            f"Gaussian noise of the same size added in the stretched space"
        ),
        "denoised": (
            f"samples of the prior at sigma = {CLEAN_SIGMA:g} against held-out images with "
            f"Gaussian noise of the same size, both after one denoising step of this prior"
        ),
        "clean": "the same samples against the held-out images as they are",
        "control": "training images in place of the samples, all else equal",
        "orientation": "every real image in a random one of its eight rotations and reflections",
        "ring": "denoised samples with a foreign ring, score at sigma = 0.1",
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
