"""Model cards and their figures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from scorepriors._errors import InputError
from scorepriors._files import atomic_path, atomic_write
from scorepriors._zoo import prior_info, prior_recipe, training_facts
from scorepriors.inference.validation import criteria
from scorepriors.training._loop import LOSS_BINS
from scorepriors.training._recipe import without_folders


def write_card(
    path: str | Path,
    name_or_path: str | Path,
    report: dict | None = None,
    *,
    figures: Mapping[str, str] | None = None,
) -> Path:
    """Write the model card of a trained prior in Markdown, atomically.

    Parameters
    ----------
    path
        File to write, ending in ``.md``.
    name_or_path
        Name of a shipped prior or a ``.safetensors`` file, as for `load_prior`.
    report
        Result of `scorepriors.inference.validation.validate_prior`; without one the card says that nothing was
        measured.
    figures
        Captions and files of figures to show, the files relative to the card.

    Returns
    -------
    Path
        The card.

    Raises
    ------
    InputError
        If there is no such prior or the report is of another one.
    """
    info = prior_info(name_or_path)
    if report is not None and report["prior"]["name"] != info.name:
        raise InputError(
            f"the report is of the prior {report['prior']['name']!r}, not of {info.name!r}."
        )
    recipe, facts = prior_recipe(name_or_path), training_facts(name_or_path)
    parts = [
        _introduction(info, recipe),
        _loading(info),
        _data(info, recipe),
        _recipe(recipe),
        _training(recipe, facts),
        *_measured(info, report),
        _figures(figures or {}),
        _limits(info, recipe, report),
    ]
    atomic_write(path, "\n\n".join(part.strip() for part in parts if part) + "\n")
    return Path(path)


def sample_grid_figure(
    samples: np.ndarray, train_images: np.ndarray, path: str | Path, *, softening: float = 0.05
) -> None:
    """Draw training images (left) beside samples (right) as a picture file, up to 64 of each.

    Parameters
    ----------
    samples, train_images
        Intensities ``[N, n, n]`` with a peak near one.  The first of each fill a square of
        eight by eight, or of as many as both sets have.
    path
        File to write; its ending gives the format.
    softening
        Softening of the gray scale ``asinh(x / softening)``, from 0 to the peak, equal for all.

    Raises
    ------
    InputError
        If either set has no image, or is no stack of images.
    """
    for images in (samples, train_images):
        if np.ndim(images) != 3 or len(images) == 0:
            raise InputError(
                f"a picture of samples needs images [N, n, n], got {np.shape(images)}."
            )
    side = min(8, *(int(len(images) ** 0.5) for images in (samples, train_images)))
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, images, title in zip(
        axes, (train_images, samples), ("training images", "samples"), strict=True
    ):
        axis.imshow(
            np.arcsinh(_mosaic(images, side) / softening),
            vmin=0.0,
            vmax=np.arcsinh(1 / softening),
            cmap="magma",
            origin="lower",
            interpolation="nearest",
        )
        axis.set_title(title)
        axis.set_axis_off()
    _save(figure, path)


def loss_curve_figure(history: np.ndarray, block: int, path: str | Path) -> None:
    """Draw the training loss of every noise bin against the step.

    Parameters
    ----------
    history
        Losses ``[blocks, bins]`` of a `TrainingResult`; the bins are `LOSS_BINS`.
    block
        Number of steps per block.
    path
        File to write; its ending gives the format.

    Raises
    ------
    InputError
        If the history is empty or of other bins.
    """
    history = np.asarray(history, float)
    if history.ndim != 2 or not len(history) or history.shape[1] != len(LOSS_BINS) - 1:
        raise InputError(
            f"a loss history must be [blocks, {len(LOSS_BINS) - 1}], got {history.shape}."
        )
    step = block * (1 + np.arange(len(history)))
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for low, high, losses in zip(LOSS_BINS[:-1], LOSS_BINS[1:], history.T, strict=True):
        axis.plot(step, losses, lw=0.9, label=f"{low:g} to {high:g}")
    axis.axhline(1.0, color="0.5", lw=0.8, ls=":")
    axis.annotate("Wiener filter", (step[-1], 1.0), ha="right", va="bottom", color="0.4")
    axis.set(yscale="log", xlabel="step", ylabel="squared error / expected of the Wiener filter")
    axis.legend(title="noise level", fontsize="small")
    _save(figure, path)


def denoising_figure(report: dict, path: str | Path) -> None:
    """Draw the denoising error of the prior and of its Wiener filter against the noise.

    Parameters
    ----------
    report
        Result of `scorepriors.inference.validation.validate_prior`.
    path
        File to write; its ending gives the format.
    """
    table = report["denoising"]
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(table["sigma"], table["wiener"], "o:", color="0.5", label="Wiener filter")
    axis.plot(table["sigma"], table["energy"], "o-", label=report["prior"]["name"])
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="noise level sigma",
        ylabel="rms error / sigma, held-out images",
    )
    axis.legend()
    _save(figure, path)


# ---- parts of the card -------------------------------------------------------------


def _introduction(info, recipe) -> str:
    return f"""
# {info.name}

{info.description or "A learned prior over galaxy images"}.

A scalar energy of one {info.box} x {info.box} pixel galaxy image, trained by denoising score
matching; its gradient is the score, and as a NumPyro distribution it has a log-density that is
a number. Noise level sigma0 = {info.sigma0:g} in the stretched space by default. One image has
a peak of one: colors and fluxes are not part of the prior.

License of the weights: {recipe.license}.
"""


def _argument(info) -> str:
    shipped = info.path.parent.name == "weights"
    # Without the folder: a card is read on other machines.
    return info.name if shipped else info.path.name


def _loading(info) -> str:
    return f"""
## How to load

```python
import jax
from scorepriors import load_prior

prior = load_prior("{_argument(info)}")
images = prior.sample(jax.random.key(0), (4,))  # [4, {info.box}, {info.box}]
log_prob = prior.log_prob(images)
sharper = prior.at(0.05)  # another noise level, nothing recompiles
```
"""


def _data(info, recipe) -> str:
    data = recipe.data
    if data.set is not None:
        source = (
            f"simulated population `{data.set}`, a `set` of `scorepriors train`, seed {data.seed}"
        )
    elif data.noisy is not None:
        source = (
            f"noisy stamps of the author (`{Path(data.noisy).name}`), from which clean images were "
            f"drawn in {recipe.rounds.number} rounds, seed {data.seed}"
        )
    else:
        source = f"images of the author (`{Path(data.path or '').name}`), seed {data.seed}"
    scale = "unknown" if info.pixel_scale is None else f"{info.pixel_scale:g} arcsec"
    return f"""
## Data

- Source: {source}.
- {data.num_images:,} training and {data.num_held_out:,} held-out images of {data.box} x {data.box}
  pixels, peak one, in all eight orientations.
- Pixel scale: {scale}.
- Stretch: z = log(1 + x / {recipe.stretch.softening:g}) / {recipe.stretch.scale:g}.
"""


def _recipe(recipe) -> str:
    rows = [
        (f"{table}.{name}", str(value))
        for table, values in without_folders(recipe).as_dict().items()
        if isinstance(values, dict)
        for name, value in values.items()
        if value is not None and name != "path"
    ]
    return "## Recipe\n\n" + _table(("key", "value"), [("sigma0", _show(recipe.sigma0)), *rows])


def _training(recipe, facts: dict) -> str:
    rows = [("seed", str(recipe.training.seed))]
    for name, value in facts.items():
        if isinstance(value, dict):
            rows += [(f"{name}: {key}", _show(entry)) for key, entry in value.items()]
        elif name == "seconds":
            rows.append(("training time", f"{value / 60:.1f} minutes"))
        elif isinstance(value, str | int | float):
            rows.append((name.replace("_", " "), _show(value)))
    return "## Training run\n\n" + _table(("fact", "value"), rows)


def _measured(info, report) -> list[str]:
    if report is None:
        return [
            "## What it reaches\n\nNot measured yet. `scorepriors validate-prior "
            f"{_argument(info)}` compares it with held-out images."
        ]
    return [_verdict(report), _samples(report), _denoising(report), _density(report)]


def _verdict(report) -> str:
    rows = [
        (c.label, _show(c.value), f"{c.comparison} {c.limit:g}", "pass" if c.passed else "**fail**")
        for c in criteria(report).values()
    ]
    number = report["protocol"]["num"]
    return (
        f"## What it reaches\n\nOn {number:,} samples and {number:,} held-out images; the "
        f"Kolmogorov-Smirnov (KS) distance of two equal sets of that size exceeds "
        f"{1.36 * (2 / number) ** 0.5:.3f} in 5 % of cases.\n\n"
        + _table(("figure", "value", "wanted", ""), rows)
    )


def _samples(report) -> str:
    columns = [
        (report[what][level], f"{who}, {level}")
        for level in ("noisy", "denoised", "clean")
        for what, who in (("samples", "samples"), ("control", "training"))
    ]
    head = ("against held-out images", *(label for _, label in columns))
    rows = [
        (label, *(_show(part[name]) for part, _ in columns))
        for name, label in (
            ("trees_auc", "boosted trees AUC"),
            ("trees_auc_without_border", "boosted trees AUC without border"),
            ("pixel_auc", "pixel network AUC"),
            ("one_maximum", "one maximum"),
            ("one_maximum_reference", "one maximum, held out"),
        )
    ]
    rows += [
        (f"KS of {name.replace('_', ' ')}", *(_show(part["ks"][name]) for part, _ in columns))
        for name in columns[0][0]["ks"]
    ]
    protocol = report["protocol"]
    return (
        "## Samples against held-out images\n\n"
        "AUC is 0.5 when the two cannot be told apart. The training columns, with "
        f"{protocol['control']}, show what the tests give for a perfect prior.\n\n"
        f"Noisy: {protocol['noisy']}.\n\nDenoised: {protocol['denoised']}.\n\n"
        f"Clean: {protocol['clean']}.\n\n" + _table(head, rows)
    )


def _denoising(report) -> str:
    table = report["denoising"]
    rows = [
        ("Wiener filter", *map(_show, table["wiener"])),
        ("this prior", *map(_show, table["energy"])),
        ("ratio", *map(_show, table["ratio"])),
    ]
    head = ("rms error / sigma, held out", *(f"{sigma:g}" for sigma in table["sigma"]))
    return "## Denoising\n\n" + _table(head, rows)


def _density(report) -> str:
    ring, stein, jacobian = report["ring"], report["stein"], report["jacobian"]
    long = report["long_chains"]
    return f"""
## As a density

- Asymmetry of the score's Jacobian at sigma = {jacobian["sigma"]:g}: {_show(jacobian["kappa"])}
  (float64).
- A ring of amplitude {ring["amplitude"]:g} in z at {ring["radius"]:g} pixels, sigma =
  {ring["sigma"]:g}: mean score {_show(ring["on_ring"])} on the ring, mean absolute score
  {_show(ring["abs_elsewhere"])} elsewhere ({_show(ring["abs_elsewhere_without"])} without the
  ring); log p falls by {ring["drop"]:,.0f}.
- Stein identity, {stein["chains"]} chains of {stein["draws"]} HMC draws at sigma =
  {report["protocol"]["sigma_density"]:g} (acceptance {stein["acceptance"]:.2f}): E[z . score] =
  {stein["mean"]:.1f} +- {stein["standard_error"]:.1f}, expected {stein["expected"]:.0f}; mean
  |z|^2 went from {stein["squares_start"]:.0f} to {stein["squares_end"]:.0f}.
- Long chains: {long["chains"]} of {long["draws"]} HMC transitions ({long["num_leapfrog"]} leapfrog
  steps, acceptance {long["acceptance"]:.2f}) on the log-density alone at sigma =
  {long["sigma"]:g}, from noisy training images.  Their last draws against noisy held-out
  images: boosted trees AUC {_show(long["trees_auc"])}; mean energy of the last third
  {long["drift"]:+.2f} standard deviations from that of such images; share of chains that left
  for far lower energies {_show(long["strayed"])}.
"""


def _figures(figures: Mapping[str, str]) -> str:
    if not figures:
        return ""
    shown = [f"![{caption}]({Path(file).as_posix()})" for caption, file in figures.items()]
    return "## Figures\n\n" + "\n\n".join(shown)


def _limits(info, recipe, report) -> str:
    cost = "" if report is None else f": {_shift_costs(report)}"
    drift = (
        ""
        if report is None or criteria(report)["stein"].passed
        else "- The Stein identity fails: long chains of the prior *alone* leave its samples. "
        "Draw from it by `sample`; use the density together with data that hold it.\n"
    )
    chosen = (
        "- "
        if report is None
        else "- The limits of the tables above were chosen for simulated galaxies in boxes of 32 pixels. "
    )
    wall = (
        "- Off the galaxies the energy is not learned but walled off: what lies behind the wall is "
        "unlikely, by how much is arbitrary.\n"
        if recipe.confinement.steps
        else "- Off the galaxies the energy is not learned: chains on the prior *alone* can leave "
        "them for regions of lower energy.  Draw from the prior with `sample`; use the density "
        "with data that hold it.\n"
    )
    resolution = (
        "of one pixel scale and one model PSF; other surveys need a prior of their own"
        if info.pixel_scale is not None
        else "of the resolution of its training images only"
    )
    return f"""
## Limits of use

- It knows the galaxies of its training set and nothing else, {resolution}.
- Galaxies must be centered as in training{cost}.
- The log-density is unnormalized, by a constant that depends on sigma0: neither sigma0 nor the
  choice between priors can be inferred from it.
- It is the density of an image *with noise* of sigma0 in the stretched space; `denoise` removes
  that noise from one image.
{wall}{drift}{chosen}One
  seed was trained; nothing is known of the scatter between seeds.
"""


def _shift_costs(report) -> str:
    shift = report["shift"]
    costs = ", ".join(
        f"{drop:,.0f} nats for {pixels}"
        for pixels, drop in zip(shift["pixels"], shift["drop"], strict=True)
    )
    level = report["protocol"]["sigma_density"]
    return f"moving one by whole pixels costs {costs} pixels at\n  sigma = {level:g}"


def _table(head, rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _show(value) -> str:
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.1f}"


def _mosaic(images: np.ndarray, side: int) -> np.ndarray:
    images = np.asarray(images, float)
    n = images.shape[-1]
    framed = np.full((side**2, n + 1, n + 1), np.nan)  # one blank pixel between images
    framed[:, :n, :n] = images[: side**2]
    grid = framed.reshape(side, side, n + 1, n + 1).transpose(0, 2, 1, 3)
    return grid.reshape(side * (n + 1), side * (n + 1))


def _save(figure: Figure, path: str | Path) -> None:
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format=path.suffix.lstrip(".") or "png")
