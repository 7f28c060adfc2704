"""A handler under which models draw the sites that their density integrates out.

A model with exact spectra has no spectrum site: the density integrates it out.  Once
the other sites have been drawn, the spectra follow exactly.  Under `recover` such a
model draws them and states the likelihood of the pixels given them.
"""

from ._compat import Messenger, apply_stack


class recover(Messenger):
    """Let a model draw the sites that its density integrates out.

    Use it inside ``numpyro.handlers.seed``.  The density of a model under `recover` is
    that of the pixels given the drawn sites, so it serves predictions and pointwise
    likelihoods only, not sampling.
    """

    def process_message(self, msg):
        """Answer `recovering`."""
        if msg["type"] == "recovering":
            msg["value"] = True


def recovering() -> bool:
    """Return whether the model runs under `recover`."""
    message = {"type": "recovering", "name": "recovering", "value": False}
    return apply_stack(message)["value"]
