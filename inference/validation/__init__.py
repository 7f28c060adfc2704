"""Validation of trained priors: two-sample tests, denoising, and consistency as a density.

Every value of the report is computed by one small function that can be called alone;
`validate_prior` calls them all.
"""

from ._report import Criterion as Criterion
from ._report import criteria as criteria
from ._report import draw_clean_samples as draw_clean_samples
from ._report import passed as passed
from ._report import validate_prior as validate_prior
