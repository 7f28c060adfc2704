"""Shared fixtures: small blends whose programs are compiled once."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import jaxtyping
import numpy as np
import pytest
from packaging.version import Version

from scorepriors import LogStretch, ScorePrior
from scorepriors.energies._gaussian import GaussianEnergy
from scorepriors.energies._wiener import ModeNetwork, WienerEnergy
from scorepriors.models import AbstractNoise
from scorepriors.models.data._observation import Observation
from scorepriors.models.rendering._psf import gaussian_psf

#: Not collected for doctests: that would define classes a second time, and one file is for the
#: library of another survey alone.
collect_ignore = ["own_source.py", "survey_products"]


def pytest_configure(config):
    """Keep compiled programs beside pytest's own cache.

    Compilation is most of the time of these tests: programs are shared between the workers
    of one run, with the next run, and with that of another Python where JAX is the same.
    Small ones too: a test that runs a model op by op compiles hundreds.
    """
    if "PYTEST_XDIST_WORKER" in os.environ and "XLA_FLAGS" not in os.environ:
        # A worker per core: threads of their own would only take turns.  Programs compiled as
        # those of `fit_map` are take two thirds of the time.  Nothing has run yet.
        flags = ["--xla_cpu_multi_thread_eigen=false", "--xla_backend_optimization_level=1"]
        if Version(jaxlib.__version__) < Version("0.11"):  # later ones have one emitter only
            flags.append("--xla_cpu_use_fusion_emitters=false")
        os.environ["XLA_FLAGS"] = " ".join(flags)
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("xla")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if hasattr(config.option, "loadscopereorder"):
        # Files with the fewest tests would come last, and the longest are among them.
        config.option.loadscopereorder = False


@pytest.fixture(scope="session", autouse=True)
def own_cache():
    """Keep the commands from choosing another cache: its folder is part of what a program is
    looked up by, so all that follows in the process would be compiled anew.  And traces are those
    of this process: tests change what they are made of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scorepriors.inference.cli._common.prepare_jax", lambda devices=1: None)
        patch.setattr("scorepriors._traces.kept_programs", lambda: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Let go of a file's compiled programs: the whole suite's are more than one process holds.

    Each takes several memory maps, of which Linux allows a process 65,530; JAX crashes beyond.
    """
    yield
    jax.clear_caches()


def said_by_processes(program: str) -> set[str]:
    """What a program prints in processes with other hashes of strings, and so orders of sets."""
    root = str(Path(__file__).parents[1])
    return {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }


@pytest.fixture
def unchecked():
    """Let arrays of a wrong shape get as far as the message of what refuses them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def calibrate():
    """The calibration benchmark, whose long runs have reduced forms among the tests."""
    path = Path(__file__).parents[1] / "benchmarks" / "calibration" / "calibrate.py"
    spec = importlib.util.spec_from_file_location("calibrate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small_energy(box=8, modes=6, *, seed=0, trained=True):
    """A small `WienerEnergy`; `trained` gives its network random instead of zero outputs."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(box**2, modes)))[0]
    network = ModeNetwork(modes, 16, 16, 2, key=jax.random.key(seed))
    if trained:
        leaves, structure = jax.tree.flatten(network)
        leaves = [
            leaf + 0.1 * jax.random.normal(jax.random.key(i), leaf.shape)
            for i, leaf in enumerate(leaves)
        ]
        network = jax.tree.unflatten(structure, leaves)
    arrays = rng.normal(size=box**2), basis, np.geomspace(5, 0.5, modes), np.asarray(0.01)
    return WienerEnergy(*(jnp.asarray(a, jnp.float32) for a in arrays), network)


def gaussian_prior(box=8):
    """A prior whose every property is known in closed form."""
    row = np.arange(box) - (box - 1) / 2
    blob = np.exp(-(row[:, None] ** 2 + row**2) / 8)
    mean = jnp.asarray(np.log1p(blob / 0.05) / 0.44, jnp.float32)
    return ScorePrior(
        GaussianEnergy(mean, jnp.asarray(0.2)), LogStretch(), 0.3, sigma_max=5.0, name="gaussian"
    )


def small_observation(centers, *, shape=(24, 24), bands=3, seed=0, flux=300.0):
    """Round Gaussian galaxies with flat spectra, unmatched Gaussian PSFs, unit noise."""
    rng = np.random.default_rng(seed)
    psfs = np.stack([gaussian_psf(1.3 + 0.15 * b, 15) for b in range(bands)])
    rows, columns = np.indices(shape)
    images = rng.normal(size=(bands, *shape))
    for b in range(bands):
        variance = (1.3 + 0.15 * b) ** 2 + 1.5
        for row, column in centers:
            squared = (rows - row) ** 2 + (columns - column) ** 2
            images[b] += flux * np.exp(-squared / 2 / variance) / (2 * np.pi * variance)
    return Observation.from_arrays(images, variance=np.ones_like(images), psfs=psfs)


class DenseNoise(AbstractNoise):
    """Noise with any precision matrix ``[B, H W, H W]``: what has no shortcut."""

    matrix: jax.Array

    @classmethod
    def correlated(cls, weights, *, length=1.5):
        """Noise of these weights ``[B, H, W]`` whose neighboring pixels scatter together."""
        rows, columns = np.indices(weights.shape[-2:]).reshape(2, -1)
        squared = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
        inverse = np.linalg.inv(np.exp(-np.sqrt(squared) / length))
        root = np.sqrt(np.asarray(weights, float)).reshape(len(weights), -1)
        return cls(jnp.asarray(root[:, :, None] * inverse * root[:, None, :]))

    def precision(self, images):
        flat = images.reshape(*images.shape[:-2], -1)
        return jnp.einsum("bpq,...bq->...bp", self.matrix, flat).reshape(images.shape)

    def diagonal(self):
        raise NotImplementedError

    def sample(self, key):
        raise NotImplementedError

    def distribution(self, model):
        raise NotImplementedError
