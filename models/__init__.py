"""What a blend is: observations, rendering, sources, NumPyro models."""

from .blend import blend as blend
from .blend import observe as observe
from .detection import detect as detect
from .example import load_example as load_example
from .joint import join_observations as join_observations
from .observation import Observation as Observation
from .positions import Positions as Positions
from .positions import read_positions as read_positions
from .psf_checks import PSFWarning as PSFWarning
from .rendering import ImageData as ImageData
from .rendering import image_data as image_data
from .simulation import simulate_blend as simulate_blend
from .simulation import simulate_joint as simulate_joint
from .sources import Sources as Sources
from .sources import bulge_disk as bulge_disk
from .sources import free_form as free_form
from .sources import place_sources as place_sources
from .sources import point_sources as point_sources
from .sources import sersic as sersic
from .spectra import SpectrumPrior as SpectrumPrior
from .spectra import spectrum_posterior as spectrum_posterior
