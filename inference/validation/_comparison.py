"""Comparison of two sets of images by classifiers and by the distributions of moments."""

import warnings

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from numpyro.distributions.transforms import Transform

from scorepriors._errors import InputError
from scorepriors._moments import MOMENTS, image_moments


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
        Intensities; the sets may differ in size.
    stretch
        Stretch of the images for the pixel classifier.
    key
        Random key of the classifiers and their folds.

    Returns
    -------
    dict
        ``trees_auc`` and ``pixel_auc`` (0.5: indistinguishable, 1: always distinguished),
        ``trees_auc_without_border`` (the mean of the border is only the residual of a denoising
        step in the faintest pixels), ``ks`` by moment, ``one_maximum`` and
        ``one_maximum_reference`` (the share of either set with exactly one maximum).
    """
    key_trees, key_pixels = jr.split(key)
    ours, theirs = image_moments(images), image_moments(reference)
    z_ours, z_theirs = (
        np.asarray(stretch.inv(jnp.asarray(x, jnp.float32))) for x in (images, reference)
    )
    without_border = [name for name in ours if name != "border_over_peak"]
    return {
        "trees_auc": trees_auc(columns(ours), columns(theirs), key=key_trees),
        "trees_auc_without_border": trees_auc(
            columns(ours, without_border), columns(theirs, without_border), key=key_trees
        ),
        "pixel_auc": pixel_auc(z_ours, z_theirs, key=key_pixels),
        "ks": {name: ks_distance(ours[name], theirs[name]) for name in ours},
        "one_maximum": float(np.mean(ours["num_maxima"] == 1)),
        "one_maximum_reference": float(np.mean(theirs["num_maxima"] == 1)),
    }


def trees_auc(
    features: Float[np.ndarray, "N f"], reference: Float[np.ndarray, "M f"], *, key: PRNGKeyArray
) -> float:
    """Return the area under the curve of gradient-boosted trees for two tables of features.

    Scikit-learn's ``HistGradientBoostingClassifier`` with default settings, its probabilities
    cross-validated in five folds.
    """
    trees, _ = classifiers()
    return _cross_validated_auc(trees(random_state=_seed(key)), features, reference, 5, key)


def pixel_auc(
    z: Float[np.ndarray, "N n n"],
    reference: Float[np.ndarray, "M n n"],
    *,
    key: PRNGKeyArray,
    num_components: int = 64,
) -> float:
    """Return the area under the curve of a small network on pixels, in two folds.

    The leading principal components of the pooled stretched images, divided by one common
    scale, enter a perceptron with hidden layers of 64 and 32.  If each were scaled to unit
    variance, components of noise would dominate the few of shape.
    """
    _, network = classifiers()
    pooled = np.concatenate([z, reference]).reshape(len(z) + len(reference), -1)
    num_components = min(num_components, *pooled.shape)
    centered = pooled - pooled.mean(0)
    values, vectors = np.linalg.eigh(centered.T @ centered / len(centered))
    # The leading component has a standard deviation of 3: most of the rest are below 1.
    scale = np.sqrt(max(values[-1], 1e-30)) / 3
    features = centered @ vectors[:, -num_components:] / scale
    # Few passes and a strong penalty: there are more weights than images.
    classifier = network((64, 32), alpha=1.0, max_iter=60, random_state=_seed(key))
    return _cross_validated_auc(classifier, features[: len(z)], features[len(z) :], 2, key)


def ks_distance(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " M"]) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples.

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
        # The held-out value of an unconverged classifier is unbiased too.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probability = cross_val_predict(classifier, x, label, cv=folds, method="predict_proba")
    return float(roc_auc_score(label, probability[:, 1]))


def classifiers():
    """Return scikit-learn's two classifiers; InputError if it is not installed."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise InputError(
            "validating a prior needs scikit-learn: pip install 'scorepriors[validation]'."
        ) from error
    return HistGradientBoostingClassifier, MLPClassifier


def columns(moments: dict[str, np.ndarray], names=MOMENTS) -> np.ndarray:
    """Return a table of moments: one row per image, one column per name."""
    return np.stack([moments[name] for name in names], 1)


def _seed(key: PRNGKeyArray) -> int:
    return int(jr.randint(key, (), 0, 2**31 - 1))
