"""What is done with a model: fit, deblend, sample, report, the command line."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .catalog import catalog as catalog
from .deblending import deblend as deblend
from .deblending import deblend_many as deblend_many
from .lbfgs import flat_lbfgs as flat_lbfgs
from .optimization import MAPResult as MAPResult
from .optimization import fit_map as fit_map
from .outputs import write_outputs as write_outputs
from .posterior import Posterior as Posterior
from .posterior import posterior as posterior
from .report import report_figure as report_figure
from .scenes import Deblended as Deblended

if TYPE_CHECKING:
    from .diagnosis import diagnose as diagnose
    from .hallucination import hallucination_map as hallucination_map
    from .hessian import hessian_diagonal as hessian_diagonal
    from .hessian import hessian_operator as hessian_operator
    from .sampling import ALGORITHMS as ALGORITHMS
    from .sampling import Algorithm as Algorithm
    from .sampling import SamplingWarning as SamplingWarning
    from .sampling import error_ratio as error_ratio
    from .sampling import flux_catalog as flux_catalog
    from .sampling import flux_covariance as flux_covariance
    from .sampling import laplace as laplace
    from .sampling import laplace_deblended as laplace_deblended
    from .sampling import load_tree as load_tree
    from .sampling import sample as sample
    from .sampling import sample_deblended as sample_deblended
    from .sampling import save_tree as save_tree
    from .sampling import source_moments as source_moments
    from .sampling import write_samples as write_samples

#: Imported when asked for: whoever only deblends need not wait for ArviZ and BlackJAX.
_LATER = {
    "sampling": (
        "ALGORITHMS", "Algorithm", "SamplingWarning", "error_ratio", "flux_catalog",
        "flux_covariance", "laplace", "laplace_deblended", "load_tree", "sample",
        "sample_deblended", "save_tree", "source_moments", "write_samples",
    ),
    "diagnosis": ("diagnose",),
    "hallucination": ("hallucination_map",),
    "hessian": ("hessian_diagonal", "hessian_operator"),
}  # fmt: skip
_HOME = {name: module for module, names in _LATER.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
