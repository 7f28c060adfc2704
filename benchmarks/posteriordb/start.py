"""What the start of a run of `sample` costs: gradients of its fit, and products with Hessians."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np

from scorepriors.inference.curvature import _spectrum as spectrum
from scorepriors.inference.fitting import _map as fits
from scorepriors.inference.fitting import _newton as newton
from scorepriors.inference.sampling import _origin as origin

#: Gradients that a product with a Hessian costs.
PRODUCT = 2


class Start:
    """Gradients of a start so far."""

    gradients = 0


@contextmanager
def counted() -> Iterator[Start]:
    """Count the gradients before the first transition of a chain.

    One for each iteration of the fit, two for each product with a Hessian: those by which the fit
    tests its mode and goes on by Newton's steps, and those of the curvature about which chains move;
    and the gradients at the points by which a test measures rounding.  For models of up to 400
    dimensions, as all of posteriordb's here.
    """
    start = Start()
    fit, local, products = origin.fit_map, newton.Problem.local, spectrum._products

    def counted_fit(*args, **options):
        found = fit(*args, **options)
        start.gradients += int(np.sum(found.num_iterations))
        return found

    def counted_local(problem, flat):
        assert problem.dimension <= newton.DENSE
        padded = -(-problem.dimension // 16) * 16
        start.gradients += PRODUCT * padded + newton.PROBES + 1
        return local(problem, flat)

    def counted_products(curve, directions):
        start.gradients += PRODUCT * len(directions)
        return products(curve, directions)

    with (
        patch.object(origin, "fit_map", counted_fit),
        patch.object(fits.Newton, "local", counted_local),
        patch.object(spectrum, "_products", counted_products),
    ):
        yield start
