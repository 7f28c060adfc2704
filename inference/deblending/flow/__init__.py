r"""Draws of scenes in the noise that a prior's probability flow maps to galaxies.

A learned density is concentrated near a thin, curved manifold in the space of images: from a
small galaxy to a large one, every pixel changes by many times the noise sigma0, and a chain of
small steps mixes very slowly.  The flow of the prior (`scorepriors.energies._diffusion.follow_flow`)
maps Gaussian noise :math:`\xi` to galaxies :math:`T(\xi)`, with the right share of every kind,
so the posterior is

.. math:: p(\xi \mid Y) \propto N(\xi; 0, 1) \, p(Y \mid T(\xi)),

and where the data have little information it is close to Gaussian.  Each sweep proposes for
every source

.. math:: \xi' = m + \sqrt{1 - s^2}\,(\xi - m) + s\,C^{1/2} \epsilon,

a move that leaves N(m, C) invariant, and accepts it by the ratio of the posterior to that
(preconditioned Crank-Nicolson: Neal 1998, eq. 15; Cotter et al. 2013; Rudolf & Sprungk 2018).
Sweeps alternate: N(m, C) is the prior, N(0, 1); or a Gaussian about the mode with the
information of the data about that galaxy (`scorepriors.inference.deblending.flow._reference`);
or one of all galaxies at once, which then move together, as needed for overlapping neighbors.
For a faint source s is tuned to 1, an independent galaxy each time.  The likelihood has the
spectra integrated out.

Positions of stars have Gaussian priors and the same kind of moves; brightnesses have
random-walk moves.
"""

from ._sampler import Flow as Flow
from ._scene import NUM_STEPS as NUM_STEPS
