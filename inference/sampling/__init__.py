"""Draws from posteriors: BlackJAX kernels in, ArviZ out."""

from .algorithms import ALGORITHMS as ALGORITHMS
from .algorithms import Algorithm as Algorithm
from .diagnostics import SamplingWarning as SamplingWarning
from .sample import sample as sample
from .tree import load_tree as load_tree
from .tree import save_tree as save_tree
