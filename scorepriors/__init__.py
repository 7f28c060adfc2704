"""Learned galaxy priors for NumPyro: the ground floor, what a prior is."""

from .distribution import ScorePrior as ScorePrior
from .errors import InputError as InputError
from .stretch import AsinhStretch as AsinhStretch
from .stretch import LogStretch as LogStretch
from .zoo import list_priors as list_priors
from .zoo import load_prior as load_prior
from .zoo import save_prior as save_prior

__version__ = "0.1.0"
