"""The state of an installation, and whether it computes what it should.

For reports of problems: versions, devices and caches as a program sees them, and tests against
numbers known in closed form that take some twenty seconds.
"""

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from scorepriors import __version__
from scorepriors._errors import InputError
from scorepriors._programs import cache_folder
from scorepriors._zoo import list_priors, load_prior

from .fitting._map import fit_map
from .sampling._sample import sample
from .sampling._tree import group

#: Libraries whose versions matter to results.
LIBRARIES = (
    *(
        "numpyro",
        "jax",
        "jaxlib",
        "equinox",
        "blackjax",
        "optax",
        "arviz",
        "astropy",
        "numpy",
        "scipy",
    ),
    *("xarray", "lineax", "matfree", "distributed", "funsor", "galsim", "piff", "pyarrow"),
)

#: Largest deviation of a derivative of a learned density from a difference of its values.
DERIVATIVE = 0.02

#: Largest deviation of a fit from the closed form, and of draws, in standard deviations; and of theirs.
OF_FIT, OF_DRAWS, OF_WIDTH = 0.02, 0.25, 0.2


class Trial(NamedTuple):
    """Result of a test.

    Attributes
    ----------
    name
        What was tested.
    passed
        Whether it passed.
    text
        What was found, in words.
    """

    name: str
    passed: bool
    text: str


def installation() -> dict[str, Any]:
    """Return versions, devices, memory and the cache of compiled programs.

    Returns
    -------
    dict
        ``scorepriors``, ``python``, ``platform``; ``libraries`` (None for those not installed);
        ``devices``, ``x64``, ``cpus``, ``memory_gib`` (None where it is not known); ``cache`` with
        ``folder``, ``writable``, ``programs`` and ``mib``.
    """
    return {
        "scorepriors": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "libraries": {name: _version(name) for name in LIBRARIES},
        "devices": _devices(),
        "x64": bool(jax.config.read("jax_enable_x64")),
        "cpus": _cpus(),
        "memory_gib": _memory(),
        "cache": _cache(cache_folder()),
    }


def trials() -> Iterator[Trial]:
    """Test the installation, from the files that it came with to draws of a posterior.

    Yields
    ------
    Trial
        Each as soon as it is done.
    """
    tests: dict[str, Callable[[], tuple[bool, str]]] = {
        "weights of the priors": _weights,
        "derivative of a learned density": _derivative,
        "fit of a straight line": _fit,
        "draws of a straight line": _draws,
    }
    for name, test in tests.items():
        try:
            yield Trial(name, *test())
        except Exception as error:  # whatever ends a test is what a report is about
            yield Trial(name, False, f"{type(error).__name__}: {error}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    try:
        return [f"{one.platform}: {one.device_kind}" for one in jax.devices()]
    except Exception as error:  # a broken plugin is what a report is about
        return [f"none: {error}"]


def _cpus() -> int:
    """Return the number of cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None  # not on this system


def _cache(folder: Path) -> dict[str, Any]:
    """Return facts on the folder of compiled programs, which need not exist."""
    files = [path for path in folder.glob("*-cache") if path.is_file()]
    above = folder
    while not above.exists():
        above = above.parent
    return {
        "folder": str(folder),
        "writable": _writable(above),
        "programs": len(files),
        "mib": round(sum(path.stat().st_size for path in files) / 2**20, 1),
    }


def _writable(folder: Path) -> bool:
    """Return whether a file can be made in a folder, which permissions alone do not tell."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _weights() -> tuple[bool, str]:
    names, broken = [], []
    for info in list_priors():
        try:
            load_prior(info.path)
            names.append(info.name)
        except InputError as error:
            broken.append(str(error))
    return not broken, " ".join(broken) or f"{', '.join(names)} agree with their checksums"


def _derivative() -> tuple[bool, str]:
    """Compare the gradient of a learned density with differences of its values."""
    prior = load_prior("lsst-32")
    rows, columns = np.indices(prior.event_shape)
    middle = (prior.event_shape[-1] - 1) / 2
    image = jnp.asarray(np.exp(-((rows - middle) ** 2 + (columns - middle) ** 2) / 18), jnp.float32)
    density = jax.jit(prior.log_prob)
    slope = jax.jit(jax.grad(prior.log_prob))(image)
    # Along the gradient, far enough for a change of a nat on either side.
    step = slope / jnp.sum(slope**2)
    change = float(density(image + step) - density(image - step)) / 2
    off = abs(change - 1)
    return off < DERIVATIVE, f"off by {100 * off:.2g} % (at most {100 * DERIVATIVE:g} %)"


def _line(x, y) -> None:
    start = numpyro.sample("start", dist.Normal(0.0, 10.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 10.0))
    numpyro.sample("y", dist.Normal(start + slope * x, 0.5), obs=y)


def _data() -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Return data of a straight line, and mean and covariance of its posterior."""
    x = np.linspace(-1, 3, 30)
    y = 2 - 0.7 * x + np.random.default_rng(0).normal(0, 0.5, len(x))
    design = np.stack([np.ones_like(x), x], 1) / 0.5
    covariance = np.linalg.inv(design.T @ design + np.eye(2) / 10**2)
    mean = covariance @ design.T @ (y / 0.5)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), mean, covariance


def _fit() -> tuple[bool, str]:
    x, y, mean, covariance = _data()
    found = fit_map(_line, x, y, key=jax.random.key(0))
    values = np.array([float(found.values["start"]), float(found.values["slope"])])
    off = float(np.max(np.abs(values - mean) / np.sqrt(np.diagonal(covariance))))
    good = bool(found.converged) and off < OF_FIT
    return good, f"off by {off:.2g} standard deviations (at most {OF_FIT:g})"


def _draws() -> tuple[bool, str]:
    x, y, mean, covariance = _data()
    tree = sample(_line, x, y, key=jax.random.key(0), num_warmup=200, num_samples=200)
    drawn = group(tree, "posterior")
    values = np.stack([np.asarray(drawn[name]).ravel() for name in ("start", "slope")], 1)
    width = np.sqrt(np.diagonal(covariance))
    off = float(np.max(np.abs(values.mean(0) - mean) / width))
    wide = float(np.max(np.abs(values.std(0) / width - 1)))
    text = (
        f"means off by {off:.2g} standard deviations (at most {OF_DRAWS:g}), these by "
        f"{100 * wide:.2g} % (at most {100 * OF_WIDTH:g} %)"
    )
    return off < OF_DRAWS and wide < OF_WIDTH, text
