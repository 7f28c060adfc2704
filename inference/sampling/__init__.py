"""Draws from posteriors: BlackJAX kernels in, ArviZ out."""

from .algorithms import ALGORITHMS as ALGORITHMS
from .algorithms import Algorithm as Algorithm
from .diagnostics import SamplingWarning as SamplingWarning
from .fluxes import flux_catalog as flux_catalog
from .fluxes import flux_covariance as flux_covariance
from .fluxes import source_images as source_images
from .fluxes import source_moments as source_moments
from .laplace import error_ratio as error_ratio
from .laplace import laplace as laplace
from .results import write_samples as write_samples
from .sample import sample as sample
from .scene import laplace_deblended as laplace_deblended
from .scene import sample_deblended as sample_deblended
from .tree import load_tree as load_tree
from .tree import save_tree as save_tree
