"""What an accelerator does: network, many blends, many chains, memory, agreement with the CPU.

    python benchmarks/gpu.py --output DIR --prepare     # on any machine: the blends; needs GalSim
    python benchmarks/gpu.py --output DIR               # on the one with a GPU, under eight minutes
    python benchmarks/gpu.py --output DIR --small       # a rehearsal on a CPU

Needs JAX' CUDA wheels (``pip install 'jax[cuda13]'``).  Every section is a process of its own with a
time of its own, after which it is ended (``--patience 3`` for three times as much); each number is written to
``gpu.jsonl`` once it is known,
and ``gpu.md`` holds them all as a table.  `DIR/blends.npz` may be copied to a machine without GalSim.
The many blends are 64 simulated ones with other noise in each.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

#: Seconds of the sections; with the starts of processes below eight minutes.
BUDGETS = {"device": 20, "network": 50, "blends": 240, "chains": 90, "agreement": 60}

#: Sizes, and those of ``--small``.
SIZES = {
    "images": ((8, 64, 512, 4096), (8, 64)),
    "blends": ((10, 100, 1000, 10_000), (4, 10)),
    "chains": (64, 4),
    "draws": (50, 8),
    "compared": (10, 4),
}

#: Different blends in the file, and of how many results are in memory at a time.
DIFFERENT, PART = 64, 2048


def size(options, name: str):
    """Return a size of a run."""
    return SIZES[name][options.small]


def write(options, section: str, **facts) -> None:
    """Add a line to the results."""
    with (options.output / "gpu.jsonl").open("a") as stream:
        stream.write(json.dumps({"section": section, **facts}) + "\n")
    said = ", ".join(
        f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v}" for n, v in facts.items()
    )
    print(f"{section}: {said}", flush=True)


def memory() -> dict:
    """Return the peak of the device's memory, and of the process' own."""
    import resource

    import jax

    facts = jax.local_devices()[0].memory_stats() or {}
    peak = facts.get("peak_bytes_in_use")
    return {
        **({} if peak is None else {"device_peak_gb": peak / 1e9}),
        "host_peak_gb": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9,
    }


def least(call, seconds: float = 2.0) -> float:
    """Return the least seconds of a call, which is repeated for some time."""
    import jax

    jax.block_until_ready(call())
    times, end = [], time.monotonic() + seconds
    while len(times) < 3 or (time.monotonic() < end and len(times) < 100):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def prepare(options) -> Path:
    """Return the file of blends, which is made if there is none."""
    path = options.output / "blends.npz"
    if not path.exists():
        from scorepriors.models.simulation._blend_sets import simulate_set, write_set

        number = size(options, "blends")[-1] if options.small else DIFFERENT
        write_set(path, simulate_set("lsst", min(number, DIFFERENT), seed=51))
    return path


def observations(options, number: int, seed: int):
    """Return blends with noise of their own, and the true positions."""
    from dataclasses import replace

    from astropy.table import Table

    from scorepriors.models import read_positions
    from scorepriors.models.simulation._blend_sets import BlendSet

    held, rng = BlendSet(prepare(options)), np.random.default_rng(seed)
    first = [held.observation(i) for i in range(min(number, len(held)))]
    truth = [held.truth(i) for i in range(len(first))]
    where = [
        read_positions(Table({"x": t.center[:, 1], "y": t.center[:, 0]}), obs)
        for t, obs in zip(truth, first, strict=True)
    ]
    many = []
    for k in range(number):
        obs, known = first[k % len(first)], truth[k % len(first)]
        noise = rng.standard_normal(obs.images.shape) / np.sqrt(known.weights)
        images = (known.convolved.sum(0) + noise).astype(np.float32)
        many.append(replace(obs, images=images))
    return many, [where[k % len(where)] for k in range(number)]


def device(options) -> None:
    """The machine, and its rate of matrix products."""
    import jax
    import jax.numpy as jnp

    one = jax.local_devices()[0]
    write(
        options, "device", backend=jax.default_backend(), kind=one.device_kind, jax=jax.__version__
    )
    side = 1024 if options.small else 8192
    a = jnp.ones((side, side), jnp.float32)
    for precision in ("default", "highest"):
        product = jax.jit(lambda a, how=precision: jnp.matmul(a, a, precision=how))
        seconds = least(lambda product=product: product(a), 1.0)
        write(options, "device", precision=precision, tera_per_second=2e-12 * side**3 / seconds)


def network(options) -> None:
    """Value and gradient of the prior by the number of images."""
    import jax
    import jax.numpy as jnp

    from scorepriors import load_prior

    prior = load_prior("lsst-32")
    few = prior.sample(jax.random.key(0), (8,))
    matrices = sum(leaf.size for leaf in jax.tree.leaves(prior.params) if leaf.ndim == 2)
    call = jax.jit(jax.value_and_grad(lambda x: prior.log_prob(x).sum()))
    for number in size(options, "images"):
        x = jnp.tile(few, (number // len(few), 1, 1))
        seconds = least(lambda x=x: call(x), 1.0)
        write(
            options,
            "network",
            images=number,
            milliseconds=1e3 * seconds,
            images_per_second=number / seconds,
            tera_per_second=4e-12 * matrices * number / seconds,
        )


def fit(options, number: int, seed: int):
    """Deblend many; return seconds, fluxes and their errors, and the number converged."""
    import jax

    from scorepriors.inference import deblend_many

    seen, where = observations(options, number, seed)
    seconds, converged, fluxes, errors = 0.0, 0, [], []
    for first in range(0, number, PART):
        start = time.perf_counter()
        found = deblend_many(
            seen[first : first + PART],
            where[first : first + PART],
            key=jax.random.key(0),
            center_error=0.05,
            padding=8,
        )
        seconds += time.perf_counter() - start
        converged += sum(bool(one.converged) for one in found)
        fluxes += [one.photometry.total[0] for one in found]
        errors += [one.photometry.total[1] for one in found]
    return seconds, np.concatenate(fluxes), np.concatenate(errors), converged


def blends(options) -> None:
    """Seconds of more and more blends; the first time of a number compiles."""
    end = time.monotonic() + options.patience * BUDGETS["blends"]
    cost = 0.0
    for number in size(options, "blends"):
        for again in (False, True):
            # What comes next takes at most as much per blend as what was there.
            if time.monotonic() + cost * number > end:
                write(options, "blends", blends=number, left_out=f"{cost:.3g} s each so far")
                return
            seconds, _, _, converged = fit(options, number, 2 * number + again)
            cost = seconds / number
            write(
                options,
                "blends",
                blends=number,
                compiled="before" if again else "in it",
                seconds=seconds,
                blends_per_second=number / seconds,
                converged=converged,
                **memory(),
            )


def chains(options) -> None:
    """One scene with many chains: draws and effective draws of its fluxes per second."""
    import jax

    from scorepriors.inference import deblend, sample_deblended
    from scorepriors.inference.sampling._tree import effective_sizes, group

    (obs,), (where,) = observations(options, 1, 5)
    warnings.simplefilter("ignore")
    result = deblend(obs, where, center_error=0.05, models="simplest", key=jax.random.key(0))
    for again in (False, True):
        start = time.perf_counter()
        tree = sample_deblended(
            result,
            key=jax.random.key(1 + again),
            models="given",
            num_chains=size(options, "chains"),
            num_warmup=100 if not options.small else 20,
            num_samples=size(options, "draws"),
        )
        seconds = time.perf_counter() - start
        flux = group(tree, "posterior")[["flux"]]
        write(
            options,
            "chains",
            algorithm=str(tree.attrs["algorithm"]),
            chains=size(options, "chains"),
            compiled="before" if again else "in it",
            seconds=seconds,
            draws_per_second=flux.sizes["chain"] * flux.sizes["draw"] / seconds,
            effective_per_second=float(effective_sizes(flux)["flux"].min()) / seconds,
            **memory(),
        )


def agreement(options) -> None:
    """Fluxes of the same blends by this device and by the CPU."""
    number = size(options, "compared")
    code = (
        "import sys; sys.argv = sys.argv[1:]\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import gpu, numpy as np\n"
        "options = gpu.parsed()\n"
        f"_, flux, error, _ = gpu.fit(options, {number}, 7)\n"
        "np.savez(options.output / 'cpu.npz', flux=flux, error=error)\n"
    )
    passed = ["gpu", "--output", str(options.output), *(["--small"] if options.small else [])]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen([sys.executable, "-c", code, *passed], env=environment) as other:
        try:
            _, flux, _, _ = fit(options, number, 7)
            if other.wait():
                sys.exit("the fits on the CPU failed.")
        finally:
            other.kill()
    with np.load(options.output / "cpu.npz") as known:
        off = np.abs(flux - known["flux"]) / known["error"]
        relative = np.abs(flux / known["flux"] - 1)
    write(
        options,
        "agreement",
        blends=number,
        sources=len(off),
        median_of_errors=float(np.median(off)),
        largest_of_errors=float(off.max()),
        median_relative=float(np.median(relative)),
    )


def markdown(lines: list[dict]) -> str:
    """Return all results, a table for each section."""
    text = []
    for section in BUDGETS:
        own = [
            {k: v for k, v in one.items() if k != "section"}
            for one in lines
            if one["section"] == section
        ]
        names = list(dict.fromkeys(name for one in own for name in one))
        text += [f"{section}:", "", f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
        for one in own:
            cells = [one.get(name, "") for name in names]
            cells = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
            text.append(f"| {' | '.join(cells)} |")
        text.append("")
    return "\n".join(text)


def parsed():
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="Few of all, for a CPU.")
    parser.add_argument("--prepare", action="store_true", help="Simulate the blends alone.")
    parser.add_argument("--only", choices=BUDGETS, action="append")
    parser.add_argument("--patience", type=float, default=1.0, help="Factor of all times.")
    parser.add_argument("--section", choices=BUDGETS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    options = parsed()
    if options.section:
        globals()[options.section](options)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    prepare(options)
    if options.prepare:
        return
    (options.output / "gpu.jsonl").unlink(missing_ok=True)
    for section in options.only or BUDGETS:
        command = [sys.executable, __file__, *sys.argv[1:], "--section", section]
        start = time.monotonic()
        try:
            code = subprocess.run(command, timeout=options.patience * BUDGETS[section]).returncode
            ended = "done" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            ended = "out of time"
        write(options, section, ended=ended, section_seconds=time.monotonic() - start)
    lines = [json.loads(line) for line in (options.output / "gpu.jsonl").read_text().splitlines()]
    (options.output / "gpu.md").write_text(markdown(lines))
    print(markdown(lines))


if __name__ == "__main__":
    main()
