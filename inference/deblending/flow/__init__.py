r"""Draws of whole scenes, by way of the noise that a prior's probability flow turns into galaxies.

A learned density is a thin, curved sheet in the space of images: from a small galaxy to a
large one, every pixel changes by many times the noise sigma0, and a chain of small steps
takes for ever to walk there.  The flow of the prior (`scorepriors.diffusion.follow_flow`)
unrolls the sheet: it turns Gaussian noise :math:`\xi` into galaxies :math:`T(\xi)`, with the
right share of every kind, so the posterior is

.. math:: p(\xi \mid Y) \propto N(\xi; 0, 1) \, p(Y \mid T(\xi)),

and where the data say little it is as round as the noise.  Each sweep offers every source

.. math:: \xi' = m + \sqrt{1 - s^2}\,(\xi - m) + s\,C^{1/2} \epsilon,

a move that leaves N(m, C) as it is, and accepts it by what the posterior is more or less
than that (preconditioned Crank-Nicolson: Neal 1998, eq. 15; Cotter et al. 2013; Rudolf &
Sprungk 2018).  Sweeps take turns: N(m, C) is the prior, N(0, 1); or a Gaussian about the mode
that knows what the data say of that galaxy (`scorepriors.inference.deblending.flow._reference`); or
one of all galaxies at once, which move together, as neighbors that share their light must.
For a faint source s tunes itself to 1, a fresh galaxy each time.  The likelihood has the
spectra integrated out.

Positions of stars have Gaussian priors and move alike; brightnesses walk at random.
"""

from ._sampler import Flow as Flow
from ._scene import NUM_STEPS as NUM_STEPS
