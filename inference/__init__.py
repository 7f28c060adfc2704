"""What is done with a model: fit, deblend, report, the command line."""

from .catalogue import catalogue as catalogue
from .deblending import Deblended as Deblended
from .deblending import deblend as deblend
from .deblending import deblend_many as deblend_many
from .lbfgs import flat_lbfgs as flat_lbfgs
from .optimization import MAPResult as MAPResult
from .optimization import fit_map as fit_map
from .outputs import write_outputs as write_outputs
from .posterior import Posterior as Posterior
from .posterior import posterior as posterior
from .report import report_figure as report_figure
