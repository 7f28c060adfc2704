r"""Draws of scenes of stars and profiles, by a density that needs no pixels.

With few parameters per source what a gradient costs is rendering: every source in every band,
there and back.  But the images of a source within its errors are, in the metric of the data, close
to a space of some thirty dimensions (`_basis`), coefficients in which are known from few pixels
(`_pixels`), and with the spectra integrated out the likelihood depends on images through their
inner products alone (`scorepriors.models.spectra._products`).  So the density :math:`\pi^*` of
images projected on these components is a function of a few coefficients per source, within
hundredths of a nat of the posterior :math:`\pi` where that is.

Chains move by Hamiltonian trajectories that leave :math:`\pi^*` invariant; after some of them the
posterior itself accepts the way from x to y with probability

.. math:: \min\left(1, \frac{\pi(y)\,\pi^*(x)}{\pi(x)\,\pi^*(y)}\right),

so draws are those of the posterior, however good the components are (the surrogate transition of
Liu 2001, "Monte Carlo Strategies in Scientific Computing", 9.4.3; delayed acceptance of Christen &
Fox 2005).  Where they are bad, moves are refused, and the acceptance rate tells.
"""

from ._sampler import Reduced as Reduced
