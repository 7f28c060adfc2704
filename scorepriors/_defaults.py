"""Defaults shared by recipes, priors and stretches."""

#: Intensity below which the logarithmic stretch is linear, and its compression.  With those of
#: the paper, 1 and 0.1, errors in faint pixels are five times larger at equal sigma0.
SOFTENING, SCALE = 0.05, 0.44

#: Noise level of a prior, in the stretched space.
SIGMA0 = 0.15

#: Largest noise level.  With 10 the fluxes of samples were off: a KS distance of .09 instead of
#: .03, in part from shorter training.
SIGMA_MAX = 25.0

#: Standard deviation of the Gaussian PSF of the training images, in pixels.
MODEL_PSF_SIGMA = 0.7

#: Leading principal modes of the training images that a network sees.
NUM_MODES = 192
