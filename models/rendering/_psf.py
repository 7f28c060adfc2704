"""Kernels from the model's PSF to observed ones: on the ground floor, since training uses them."""

from scorepriors._psfs import RIDGE as RIDGE
from scorepriors._psfs import DifferenceKernels as DifferenceKernels
from scorepriors._psfs import difference_kernels as difference_kernels
from scorepriors._psfs import gaussian_psf as gaussian_psf
