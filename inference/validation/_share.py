"""A folder that shares a prior: weights, card, recipe, checksums."""

import json
from collections.abc import Callable
from pathlib import Path

from scorepriors._addresses import sum_of_file
from scorepriors._errors import InputError
from scorepriors._files import atomic_write
from scorepriors._zoo import (
    SUMS,
    copy_prior,
    is_shipped,
    list_priors,
    prior_info,
    prior_path,
    prior_recipe,
)
from scorepriors.inference.reports._outputs import write_whole
from scorepriors.training._recipe import recipe_text

from ._cards import write_card

#: Name of the card: what GitHub and Hugging Face show of a folder, and Zenodo of an upload.
CARD = "README.md"


def shared_names(name: str | Path) -> tuple[str, ...]:
    """Return the names of the files that `share_prior` writes."""
    own = prior_info(name).name
    return f"{own}.safetensors", CARD, f"{own}.toml", SUMS


def share_prior(
    folder: str | Path, name: str | Path, *, report: str | Path | None = None, force: bool = False
) -> list[Path]:
    """Write a folder with which others can use a prior: `load_prior` takes it as it is.

    Parameters
    ----------
    folder
        Folder to write to; made if missing.  The bare name of a shipped prior is only for that one,
        since it would be loaded by that name.
    name
        Prior that `save_prior` wrote, as for `load_prior`.
    report
        JSON file of `validate-prior` with the figures of the card.  By default the card of a shipped
        prior is the one that comes with it, and any other says that nothing was measured.
    force
        Whether to replace existing files.

    Returns
    -------
    list of pathlib.Path
        ``NAME.safetensors``, ``README.md`` (the card), ``NAME.toml`` (the recipe) and
        ``SHA256SUMS``, as ``sha256sum --check`` reads it.

    Raises
    ------
    InputError
        If there is no such prior, it is damaged or has no recipe, files exist and `force` is False,
        the report is none, or of another prior, or the folder has the name of a shipped one.
    """
    recipe = prior_recipe(name)
    if is_shipped(folder) and sum_of_file(prior_path(name)) != sum_of_file(prior_path(folder)):
        raise InputError(
            f"{str(folder)!r} is the name of a shipped prior, which --prior {folder} loads; give a "
            "folder of another name, --output FOLDER."
        )
    figures = None if report is None else _read_report(Path(report))
    weights, card, toml, sums = shared_names(name)
    shipped = {info.path: info for info in list_priors()}.get(prior_info(name).path)

    def write_the_card(path: Path) -> None:
        if shipped is not None and figures is None:
            text = shipped.path.with_suffix(".md").read_text()
            atomic_write(path, text.replace(f'"{shipped.name}"', f'"{weights}"'))
        else:
            # From the copy: a card names the file that lies beside it.
            write_card(path, path.parent / weights, figures)

    def write_sums(path: Path) -> None:
        lines = (f"{sum_of_file(path.parent / one)}  {one}\n" for one in (weights, card, toml))
        atomic_write(path, "".join(lines))

    writers: dict[str, Callable[[Path], object]] = {
        weights: lambda path: copy_prior(name, path),
        card: write_the_card,
        toml: lambda path: atomic_write(path, recipe_text(recipe)),
        sums: write_sums,
    }
    return write_whole(folder, writers, force=force)


def _read_report(path: Path) -> dict:
    """Return the report in a JSON file of `validate-prior`."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the report {str(path)!r}: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{path.name} is no report: it is not JSON.") from error
    wanted = {"prior", "protocol", "samples", "denoising", "shift"}
    if not (isinstance(report, dict) and wanted <= set(report)):
        raise InputError(
            f"{path.name} is no report of a prior; `scorepriors validate-prior` writes NAME.json."
        )
    return report
