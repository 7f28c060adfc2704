"""Undocumented and second-tier names of dependencies, imported from here alone.

Their packages don't promise to keep them.  The table gives for each what it is, its public
replacement, and the versions it is known to work with.  `tests/test_compat.py` tries them
all: when a release removes one, that test fails with its name, and the fix belongs here.
Dependencies can thus do without upper limits.

Names are imported at their first use: ArviZ and BlackJAX take long to import.
"""

import importlib
import importlib.metadata
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import jax
import numpy as np

#: Module and name of each, in order of the dependencies.
SOURCES: dict[str, str] = {
    # The rules of a primitive: derivative, transpose, batching, lowering by platform.
    # Renderings are linear, need forward and reverse derivatives of any order, and loop over
    # sources on CPUs alone.  `jax.extend` and `jax.interpreters` come with no promise.
    # Replacement: `jax.custom_transpose`, once public, with `custom_vmap`.  JAX 0.9 to 0.12.
    "Primitive": "jax.extend.core.Primitive",
    "ad": "jax.interpreters.ad",
    "batching": "jax.interpreters.batching",
    "mlir": "jax.interpreters.mlir",
    # A batching rule of our own: documented, and new enough to change.  Replacement: none,
    # once jaxlib 0.10 is no longer supported, the factorizations of which it keeps from
    # waiting for each other.  JAX 0.9 to 0.12.
    "custom_vmap": "jax.custom_batching.custom_vmap",
    # What `custom_jvp` with `symbolic_zeros=True` passes for inputs that don't move.
    # Documented, with no promise of its type.  Replacement: gradients of these inputs too,
    # computed in vain.  JAX 0.4.10 to 0.12.
    "SymbolicZero": "jax.custom_derivatives.SymbolicZero",
    # Settings on which a trace depends, those of contexts included.  Replacement: traces are not
    # kept on disk without it.  JAX 0.4 to 0.12.
    "trace_context": "jax._src.config.trace_context",
    # Switches on the argument checks of a distribution's `log_prob`; every distribution of
    # NumPyro has it.  Replacement: the same few lines of our own.  NumPyro 0.10 to 0.22.
    "validate_sample": "numpyro.distributions.util.validate_sample",
    # Constrained and unconstrained values of a model's sites.  `potential_energy` and
    # `constrain_fn` are documented as experimental, `unconstrain_fn` and `compute_log_probs`
    # (the terms that `log_density` sums) not at all.  Replacement: our own loop over the sites
    # of a trace, with `biject_to` and the documented handlers.  NumPyro 0.22.
    "compute_log_probs": "numpyro.infer.util.compute_log_probs",
    "constrain_fn": "numpyro.infer.util.constrain_fn",
    "potential_energy": "numpyro.infer.util.potential_energy",
    "unconstrain_fn": "numpyro.infer.util.unconstrain_fn",
    # The handler by which `potential_energy` substitutes unconstrained values in a model,
    # Jacobians included.  Replacement: as above.  NumPyro 0.22.
    "unconstrain_reparam": "numpyro.infer.util._unconstrain_reparam",
    # The base class of effect handlers, and the function that sends them a message.
    # Replacement: none; handlers made of those of `numpyro.handlers` answer no new messages.
    # NumPyro 0.15 to 0.22.
    "Messenger": "numpyro.primitives.Messenger",
    "apply_stack": "numpyro.primitives.apply_stack",
    # The handlers that are active.  Replacement: none; a message that they answer.  NumPyro 0.2 to 0.22.
    "active_handlers": "numpyro.primitives._PYRO_STACK",
    # Dual averaging of step sizes; we set fields of its state.  Replacement: twenty lines of
    # our own.  BlackJAX 1.0 to 1.7.
    "dual_averaging_adaptation": "blackjax.adaptation.step_size.dual_averaging_adaptation",
    # Low-rank metric of draws and their gradients.  Replacement: the window adaptation around
    # it, if it took draws from outside.  BlackJAX 1.7.
    "fisher_score_low_rank": "blackjax.adaptation.metric_estimators.fisher_score_low_rank",
    # Estimators that leave one probe out (XTrace, XDiag).  Public, but the next line moves
    # them, so matfree keeps its upper limit.  matfree 0.6.3.
    "stochtrace": "matfree.stochtrace",
}


def __getattr__(name: str) -> Any:
    if name not in SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = SOURCES[name].rpartition(".")
    try:
        try:
            return getattr(importlib.import_module(module), attribute)
        except AttributeError:  # a submodule, perhaps
            return importlib.import_module(SOURCES[name])
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{package} {importlib.metadata.version(package)} has no {SOURCES[name]}, which "
            f"scorepriors needs: install an earlier {package}, or a later scorepriors."
        ) from error


@cache
def arviz_module() -> ModuleType:
    """Return the module ArviZ, 0.23 or 1.x, without its daily announcement.

    The differences of the two are handled in `scorepriors.inference.sampling._tree`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="arviz")
        import arviz
    return arviz


@cache
def quick_compilation() -> dict[str, Any]:
    """Return options of XLA that compile loops in two thirds of the time.

    The programs are as fast.

    On CPUs most of that time went into unrolling short loops (bands, sources) and into
    the newer code generator.  Options come and go without notice, so only those are given
    that this version knows: jaxlib 0.9 and 0.10 both, later ones the second.
    """
    if jax.default_backend() != "cpu":
        return {}
    options: Any = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
    return {name: value for name, value in options.items() if _is_known(name, value)}


def _is_known(option: str, value) -> bool:
    try:
        jax.jit(lambda x: x).lower(np.float32(0)).compile(compiler_options={option: value})
    except Exception:
        return False
    return True
