"""Models of the noise of the images of a blend."""

from scorepriors.models.noise._abstract import AbstractNoise
from scorepriors.models.scene._exposures import noise_of

from ._options import Settings


def noises_of(obs, settings: Settings) -> list[AbstractNoise]:
    """Return a model of the noise for every image of an observation.

    Parameters
    ----------
    obs
        Observation, or several that were joined.
    settings
        Options and priors.
    """
    return [noise_of(view.observation) for view in obs.views]
