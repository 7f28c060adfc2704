"""Means and widths against posteriordb's reference draws, effective draws beside NumPyro's NUTS.

    python benchmarks/posteriordb/run.py --database PATH --output FOLDER [--only NAME ...]

PATH is a checkout of posteriordb, a git directory, or its address, which git clones.  FOLDER gets
`results.json`, to which further runs add, `table.md` and `figure.png`.  Both samplers have the
same chains and lengths, in one process, in single precision (`--x64` for double).  Each runs
twice; the second run counts, for which JAX's cache has the programs (NumPyro compiles anew in
every run).  Gradients are those of all chains, warm-up included, and of the start of ours: the fit,
its test by the Hessian, and the curvature (`start.py`; a product with a Hessian counts as two).
Seconds hold everything.
"""

import argparse
import json
import platform
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import arviz as az
import jax
import numpy as np
from database import ADDRESS, Database
from numpyro.infer import MCMC
from numpyro.infer import NUTS as NumPyroNUTS
from scipy.stats import norm
from start import counted

from models import POSTERIORS
from scorepriors.inference import sample

LENGTHS = {"num_warmup": 500, "num_samples": 500, "num_chains": 4}

#: Probability of a false alarm per posterior and sampler.
FALSE_ALARM = 0.001


def ours(model, args):
    """A function of a key: draws, seconds, gradients of chains and of the start, and sentences."""

    def run(key):
        began = time.perf_counter()
        with counted() as start:
            tree = sample(model, *args, key=key, **LENGTHS)
        seconds = time.perf_counter() - began
        draws = {str(n): np.asarray(v, float) for n, v in tree["posterior"].data_vars.items()}
        said = json.loads(tree.attrs["warnings"])
        return draws, seconds, (tree.attrs["gradients"], start.gradients), said

    return run


def numpyros(model, args):
    """The same by NumPyro's NUTS, all chains at once too."""
    kernel = NumPyroNUTS(model)
    chains = MCMC(kernel, chain_method="vectorized", progress_bar=False, **LENGTHS)

    def run(key):
        began, steps = time.perf_counter(), 0
        for move in (partial(chains.warmup, collect_warmup=True), chains.run):
            move(key, *args, extra_fields=("num_steps",))
            steps += int(np.asarray(chains.get_extra_fields()["num_steps"]).sum())
        draws = {n: np.asarray(v, float) for n, v in chains.get_samples(True).items()}
        chains.post_warmup_state = None
        return draws, time.perf_counter() - began, (steps, 0), []

    return run


def by_parameter(draws, names):
    """Draws ``[chain, draw]`` by the names of the reference, such as ``beta[1]``."""
    found = {}
    for name in names:
        site, _, index = name.partition("[")
        if site not in draws:
            continue
        place = tuple(int(i) - 1 for i in index.rstrip("]").split(",")) if index else ()
        found[name] = draws[site][(..., *place)]
    return found


def compare(draws, reference):
    """Largest |z| of means and of widths, whether chance allows it, and effective draws."""
    z = []
    for name, values in draws.items():
        known = reference[name]
        for method, statistic in (("mean", np.mean), ("sd", np.std)):
            errors = [float(np.asarray(az.mcse(v, method=method))) for v in (values, known)]
            z.append(abs(statistic(values) - statistic(known)) / np.hypot(*errors))
    effective = min(
        float(np.asarray(az.ess(v, method=method)))
        for v in draws.values()
        for method in ("bulk", "tail")
    )
    largest = float(np.max(z)) if np.isfinite(z).all() else np.inf
    limit = float(norm.isf(FALSE_ALARM / (2 * len(z))))
    return {"z": largest, "limit": limit, "agrees": bool(largest < limit), "effective": effective}


def measure(name, database, seed):
    entry = database.entry(name)
    model, arguments = POSTERIORS[name](entry.data)
    row = {}
    for sampler, made in (("scorepriors", ours), ("numpyro", numpyros)):
        run = made(model, arguments)
        run(jax.random.key(seed))
        found, seconds, gradients, said = run(jax.random.key(seed + 1))
        result = compare(by_parameter(found, entry.draws), entry.draws)
        result |= {
            "seconds": seconds,
            "gradients": sum(gradients),
            "gradients_of_start": gradients[1],
            "per_1000_gradients": 1000 * result["effective"] / sum(gradients),
            "per_second": result["effective"] / seconds,
            "warnings": said,
        }
        row[sampler] = result
    return row


def table(results):
    lines = [
        "| posterior | agree (z) | NumPyro | effective draws per 1,000 gradients | NumPyro | "
        "per second | NumPyro |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        cells = [name.partition("-")[2]]
        cells += [f"{'yes' if one['agrees'] else 'NO'} ({one['z']:.1f})" for one in row.values()]
        for field in ("per_1000_gradients", "per_second"):
            cells += [f"{one[field]:.1f}" for one in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    ratios = {
        field: np.median(
            [row["scorepriors"][field] / row["numpyro"][field] for row in results.values()]
        )
        for field in ("per_1000_gradients", "per_second")
    }
    agreeing = [
        sum(row[n]["agrees"] for row in results.values()) for n in ("scorepriors", "numpyro")
    ]
    lines += [
        "",
        f"{agreeing[0]} of {len(results)} agree, {agreeing[1]} of NumPyro's; median ratio "
        f"{ratios['per_1000_gradients']:.2f} per gradient, {ratios['per_second']:.2f} per second. "
        f"z is the largest of all means and standard deviations, in units of both Monte Carlo "
        f"errors. {platform.machine()}, {jax.default_backend()}, JAX {jax.__version__}.",
    ]
    return "\n".join(lines) + "\n"


def figure(results, path):
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9, 4.5), layout="constrained")
    for axis, field, title in zip(
        drawn.subplots(1, 2),
        ("per_1000_gradients", "per_second"),
        ("per 1,000 gradients", "per second"),
        strict=True,
    ):
        pairs = np.array(
            [[row[n][field] for n in ("numpyro", "scorepriors")] for row in results.values()]
        )
        agrees = np.array([row["scorepriors"]["agrees"] for row in results.values()])
        axis.loglog(*pairs[agrees].T, "o", color="#0072B2", label="agrees with the reference")
        if not agrees.all():
            axis.loglog(*pairs[~agrees].T, "x", color="#D55E00", label="does not")
        ends = [pairs.min() / 1.5, pairs.max() * 1.5]
        axis.plot(ends, ends, color="0.6", zorder=0)
        axis.set(title=f"effective draws {title}", xlabel="NumPyro's NUTS", ylabel="scorepriors")
    axis.legend()
    drawn.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--database", default=ADDRESS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=list(POSTERIORS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=np.inf, help="seconds to start within")
    parser.add_argument("--x64", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", options.x64)
    folder = tempfile.TemporaryDirectory()
    jax.config.update("jax_compilation_cache_dir", folder.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    warnings.simplefilter("ignore")
    options.output.mkdir(parents=True, exist_ok=True)
    stored = options.output / "results.json"
    results = json.loads(stored.read_text()) if stored.exists() else {}
    database, began = Database(options.database), time.monotonic()
    for name in options.only:
        if name in results:
            continue
        if time.monotonic() - began > options.budget:
            print("out of time before", name)
            break
        results[name] = measure(name, database, options.seed)
        stored.write_text(json.dumps(results, indent=1))
        print(table({name: results[name]}).splitlines()[2], flush=True)
    (options.output / "table.md").write_text(table(results))
    figure(results, options.output / "figure.png")
    print(table(results))


if __name__ == "__main__":
    main()
