"""Status of fits and runs: enumerations with a sentence and a remedy for each member.

Remedies are in terms of Python.  Other interfaces, such as the command line, have tables of
their own remedies by member.
"""

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple


class Status(Enum):
    """Base of the enumerations: members are ``code, sentence, remedy``.

    Attributes
    ----------
    code
        Value of the member, a word that is stored in files.
    sentence
        Description, without capital and full stop.
    remedy
        Remedy in terms of Python; empty if there is none.
    """

    sentence: str
    remedy: str

    # Members give a sentence: the default lets type checkers read `FitStatus(code)`.
    def __new__(cls, code: str, sentence: str = "", remedy: str = ""):
        """Create a member whose value is its code alone."""
        member = object.__new__(cls)
        member._value_ = code
        member.sentence = sentence
        member.remedy = remedy
        return member

    @property
    def code(self) -> str:
        """The value."""
        return self.value

    def __str__(self) -> str:
        return self.code


class FitStatus(Status):
    """Status of a fit of `scorepriors.inference.fit_map`."""

    CONVERGED = (
        "converged",
        "what is left to gain is expected to be less than the tolerance, by the curvature where it "
        "was looked at (`verify`), otherwise by the last iterations",
    )
    OUT_OF_ITERATIONS = (
        "out_of_iterations",
        "the fit had not converged when its iterations were used up",
        "raise `max_iterations`",
    )
    ROUNDING = (
        "rounding",
        "rounding errors of the log-density, its gradient or its parameters hide what is left to "
        "gain, which is more than the tolerance",
        'run with `jax.config.update("jax_enable_x64", True)`, or center and scale the data',
    )
    KINK = (
        "kink",
        "the best point is at a kink of the log-density (as of `dist.Laplace` or a ReLU), where the "
        "slope changes its sign at once: there is no curvature to tell what is left to gain",
        "take the point as the mode if fits from other `init` end there too, or use `sample`",
    )
    NO_MODE = (
        "no_mode",
        "the log-density keeps rising towards infinity or the edge of a site's support: it has no "
        "mode there",
        "use `sample`, or reparametrize (non-centered groups, proper priors)",
    )
    DENSITY_BROKE = (
        "density_broke",
        "the log-density or its gradient was not finite ten times in a row",
        "give other start values with `init`, or an optimizer that searches along lines",
    )
    LEFT = (
        "left",
        "the fit was ended early on purpose: another one goes on from it, with other models",
        "ask the fit that goes on from it, `Deblended.fit`",
    )
    INTERRUPTED = (
        "interrupted",
        "Ctrl-C ended the fit; its best point so far is kept",
        "start again, with `init` at the values kept",
    )
    NOT_STARTED = ("not_started", "Ctrl-C ended the batch before this fit began", "start it again")


class RunStatus(Status):
    """Status of a run of `sample` or `laplace`: of several, the first that holds."""

    INTERRUPTED = (
        "interrupted",
        "Ctrl-C ended the run; the draws made so far are kept",
        "call again with the same `checkpoint`",
    )
    STUCK = (
        "stuck",
        "a chain never moved",
        "raise `num_warmup`, and check the model for bounds and NaN",
    )
    NO_MODE = (
        "no_mode",
        "the point that the Gaussian is about is no mode",
        "raise `max_iterations`, or use `sample`",
    )
    BADLY_EXPLORED = (
        "badly_explored",
        "a part of the posterior is too narrow or too far from round for the chains",
        "raise `num_warmup`, or reparametrize the model",
    )
    NOT_CONVERGED = (
        "not_converged",
        "there are too few draws to trust",
        "raise `num_warmup` and `num_samples`",
    )
    UNDEFINED = (
        "undefined",
        "a deterministic site is not a number in some draws",
        "check what the model computes there",
    )
    BIASED = (
        "biased",
        "the draws are of an approximation, without a Metropolis test that makes them exact",
        "use an exact algorithm",
    )
    TRUSTED = "trusted", "no check of the draws failed"


class Check(Enum):
    """Checks of draws: members are ``code, template, remedy, status``.

    Attributes
    ----------
    template
        Sentence with fields for the facts, for `str.format`, without full stop.
    remedy
        Remedy in terms of Python; empty if there is none.
    status
        Status of a run with this finding.
    """

    template: str
    remedy: str
    status: RunStatus

    # Members give all four: the defaults let type checkers read `Check(code)`.
    def __new__(
        cls, code: str, template: str = "", remedy: str = "", status: RunStatus = RunStatus.TRUSTED
    ):
        """Create a member whose value is its code alone."""
        member = object.__new__(cls)
        member._value_ = code
        member.template = template
        member.remedy = remedy
        member.status = status
        return member

    NO_CHAIN_MOVED = (
        "no_chain_moved",
        "no chain has moved: the step size collapsed",
        "check the model for bounds and NaN",
        RunStatus.STUCK,
    )
    CHAINS_DISAGREE = (
        "chains_disagree",
        "chains disagree ({how})",
        "raise `num_warmup` and `num_samples`; if it stays, the posterior may have several modes",
        RunStatus.NOT_CONVERGED,
    )
    CHAIN_STUCK = (
        "chain_stuck",
        "a chain never moved in an element of {site} where others did",
        "raise `num_warmup`, and check the model for bounds there",
        RunStatus.STUCK,
    )
    ONE_CHAIN = (
        "one_chain",
        "one chain cannot show whether it has converged",
        "use `num_chains=4`",
        RunStatus.NOT_CONVERGED,
    )
    FEW_DRAWS = (
        "few_draws",
        "few effective draws ({found:.0f} for {site}, should be {wanted:.0f})",
        "raise `num_samples`, or the `thinning` of the algorithm",
        RunStatus.NOT_CONVERGED,
    )
    NOT_THE_DENSITY = (
        "not_the_density",
        "the draws do not agree with the gradient of the density (kernel Stein discrepancy "
        "{value:.3g}, p = {p:.1g}, should be at least {least:g})",
        "raise `num_warmup` and `num_samples`",
        RunStatus.NOT_CONVERGED,
    )
    DIVERGENCES = (
        "divergences",
        "{count} divergent transitions: the step size is too large for a part of the posterior",
        "raise `target_acceptance_rate` of the algorithm, or reparametrize the model",
        RunStatus.BADLY_EXPLORED,
    )
    ENERGY = (
        "energy",
        "energies mix slowly (E-BFMI {found:.2f}, should be above {wanted}): the tails are "
        "explored badly",
        "raise `num_warmup` or reparametrize the model",
        RunStatus.BADLY_EXPLORED,
    )
    LONG_TREES = (
        "long_trees",
        "{share:.0%} of the trajectories stopped at {steps} steps: the posterior is far from round",
        "raise `num_warmup`",
        RunStatus.BADLY_EXPLORED,
    )
    UNDEFINED = (
        "undefined",
        "{site} is not a number (NaN) in {count} of {total} draws, which means and widths leave "
        "out",
        "check what the model computes there",
        RunStatus.UNDEFINED,
    )
    UNADJUSTED = "unadjusted", "{note}", "", RunStatus.BIASED
    NOT_A_MODE = (
        "not_a_mode",
        "a Newton step would gain {gain:.3g} nats, so this Gaussian is about a point that is no mode",
        "raise `max_iterations` of `fit_map`, or use `sample`",
        RunStatus.NO_MODE,
    )
    NEGATIVE_CURVATURE = (
        "negative_curvature",
        "{count} of {found} curvatures found are negative (the least {least:.2g} of the typical "
        "one): the widths there are made up",
        "use `sample`",
        RunStatus.NO_MODE,
    )
    FLAT_CURVATURE = (
        "flat_curvature",
        "{count} of {found} curvatures found can't be told from zero (within {floor:.2g} of the typical "
        "one): the widths there are cut at ten times the typical one",
        "use `sample`, or double precision",
        RunStatus.NO_MODE,
    )
    FEW_DIRECTIONS = (
        "few_directions",
        "the curvature is not that of {found} directions and one width for the rest (it is off by "
        "{error:.0%} in the root mean square)",
        "raise `rank`",
        RunStatus.NOT_CONVERGED,
    )
    NOT_GAUSSIAN = (
        "not_gaussian",
        "the posterior is not this Gaussian: the importance ratios of its draws have a Pareto k of "
        "{found:.2f}, should be below {wanted:.2f}",
        "use `sample`",
        RunStatus.BIASED,
    )
    DIFFERENCES = "differences", "{note}", "", RunStatus.TRUSTED
    JUMPS = (
        "jumps",
        "the log-density jumps (a change point or a step of a parameter). Draws with a Metropolis "
        "test (all algorithms but 'mclmc') are of this density, but steps do not see the jumps, and "
        "draws can't be compared with the gradient",
        "write them as smooth steps (jax.nn.sigmoid), or sum over the place of the jump as a "
        "discrete site",
        RunStatus.TRUSTED,
    )


class Finding(NamedTuple):
    """A check that failed.

    Attributes
    ----------
    check
        The check.
    facts
        Numbers and names for its sentence, as in JSON.
    """

    check: Check
    facts: dict[str, Any] = {}

    def sentence(self, remedies: Mapping[Check, str] | None = None) -> str:
        """Return a sentence with the problem and its remedy.

        Parameters
        ----------
        remedies
            Remedies by check in place of Python's; those of the check for others.
        """
        remedy = (remedies or {}).get(self.check, self.check.remedy)
        # A note of an algorithm ends with a full stop.
        text = self.check.template.format(**self.facts).rstrip(".")
        if not remedy:
            return f"{text}."
        joint = ";" if ": " in text else ":"
        return f"{text}{joint} {remedy}."


def status_of(findings, interrupted: bool = False) -> RunStatus:
    """Return the status of a run with these findings: the first member that holds."""
    held = {finding.check.status for finding in findings}
    if interrupted:
        held.add(RunStatus.INTERRUPTED)
    return next((status for status in RunStatus if status in held), RunStatus.TRUSTED)


def record(findings, interrupted: bool = False, remedies=None) -> dict[str, str]:
    """Return attributes of a tree with the findings about its draws.

    ``status`` is the code of a `RunStatus`; ``findings`` and ``warnings`` are JSON lists, of
    pairs of a code and facts and of sentences.
    """
    return {
        "status": status_of(findings, interrupted).code,
        "findings": json.dumps([[f.check.value, f.facts] for f in findings]),
        "warnings": json.dumps([f.sentence(remedies) for f in findings]),
    }


def findings_of(attrs: Mapping[str, Any]) -> list[Finding]:
    """Return the findings that `record` stored in the attributes of a tree."""
    return [Finding(Check(code), facts) for code, facts in json.loads(attrs.get("findings", "[]"))]
