"""Observations from FITS files: one for all bands, or one per band."""

import os
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note
from scorepriors.models.data.psfs._contents import detector_grids, sources_in_image

from ._bands import BandPart, combine, unit_factor, with_common_units
from ._cards import given_zero_point, header_bands
from ._correlations import correlation_in
from ._files import FITS_ENDINGS, NPZ_ENDINGS, Box, Source, check_file, open_fits, reason
from ._image_files import ImageFile
from ._meds import check_same_object
from ._names import Group, find_images, of_image, passed_over
from ._options import FileOptions, given_bands
from ._partners import exact
from ._products import by_row, recognize

#: Name of the HDU with fine PSFs in files of `Observation.to_fits`.
FINE_SAMPLES = "FINE_SAMPLES"


def read_fits(
    source: Source | Sequence[Source],
    psf=None,
    options: FileOptions | None = None,
    index: int | None = None,
) -> dict[str, Any]:
    """Read one multi-extension file, or one file per band; see `scorepriors.models.data.readers`.

    Parameters
    ----------
    source
        Path, or several in the order of the bands.
    psf
        PSF as for `scorepriors.models.data.psfs._read.read_psf`, which replaces the PSF
        extensions.
    options
        What the files do not tell.
    index
        Number of an object, for products that hold many.

    Returns
    -------
    dict
        Arguments of ``Observation.from_arrays``.
    """
    options = FileOptions() if options is None else options
    with FitsFiles(source, options, index) as files:
        return files.read(psf)


class FitsFiles:
    """One multi-extension file, or one file per band, whose parts are read until it is closed.

    Parameters
    ----------
    source, options, index
        As for `read_fits`.
    often
        Whether files stay open, for many parts; else each is closed once it was read.
    decided
        `rules` of the same files, where they were read before.
    """

    def __init__(
        self,
        source: Source | Sequence[Source],
        options: FileOptions,
        index: int | None = None,
        *,
        often: bool = False,
        rules: "Rules | None" = None,
    ):
        several = [source] if isinstance(source, str | os.PathLike) else source
        self.paths = [Path(path) for path in several]
        if not self.paths:
            raise InputError("no files given; give one FITS file, or one per band.")
        self.options, self.index = options, index
        self.rules = Rules([{} for _ in self.paths], []) if rules is None else rules
        self._often, self._stack = often, ExitStack()
        self._files: dict[int, ImageFile] = {}

    def __enter__(self) -> "FitsFiles":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self._files.clear()
        self._stack.close()

    def file(self, order: int) -> ImageFile:
        """Return the file of a number, opened."""
        if order not in self._files:
            with _naming(self.paths[order]):
                self._files[order] = self._open(order)
        return self._files[order]

    def _open(self, order: int) -> ImageFile:
        path = check_file(self.paths[order], FITS_ENDINGS, "FITS file")
        extensions = self._stack.enter_context(open_fits(path, often=self._often))
        product = recognize(extensions, path)
        groups: list[Group] = []
        if product is not None and product.open is not None:
            useless = {*self.options.given} - {"zero_point", "bands", "time"}
            if useless:
                raise InputError(
                    f"a {product.name} has its own noise, mask and cutouts; leave out "
                    f"{', '.join(f'{name}=' for name in sorted(useless))}."
                )
        elif self.index is not None:
            raise InputError(f"FITS files hold one blend, not a set; leave out index={self.index}.")
        else:
            groups = find_images(extensions, product, self.options.hdu, path.name)
        return ImageFile(
            path,
            extensions,
            product,
            self.options,
            groups,
            order,
            len(self.paths),
            self._stack,
            self._often,
            self.rules.decided[order],
        )

    def read(self, psf=None, boxes: Sequence[Box] | None = None) -> dict[str, Any]:
        """Read all pixels, or those in boxes, one beside the other.

        Returns
        -------
        dict
            Arguments of ``Observation.from_arrays``.
        """
        parts: list[BandPart] = []
        psfs: list[Any] = []
        corners: list[tuple[int, int]] = []
        known: list[np.ndarray | None] = []
        fine: list[np.ndarray] = []
        factors: list[float] = []
        mosaic = ""
        for order, path in enumerate(self.paths):
            own, corner = self._parts(order, boxes)
            known.append(self._correlation(order, own, boxes))
            fine += self._fine_samples(order)
            product = self.file(order).product
            factors += [self.file(order).factor] * sum(len(part.images) for part in own)
            if product is not None and product.resampled:
                mosaic = mosaic or f"{path.name} is a {product.name}"
            if not self._often:
                self.close()
            if len(self.paths) > 1 and sum(len(part.images) for part in own) != 1:
                raise InputError(
                    f"{path.name} holds {sum(len(part.images) for part in own)} bands; of several "
                    "files each must hold one."
                )
            if psf is None and any(part.psfs is None for part in own):
                raise InputError(
                    f"{path.name} has no PSF extension; add one or give the PSF's file as psf= "
                    "(--psf)."
                )
            psfs.append(own[0].psfs)
            parts += own
            corners.append(corner)
        if mosaic and psf is not None:
            _say_detectors(mosaic, psf)
        stem = _common_stem(self.paths)
        if self.index is not None:
            check_same_object(parts)
            stem = f"{stem}-{self.index}"
        own_psf = psf is None
        if own_psf:
            psf = psfs[0] if len(self.paths) == 1 else psfs
        arguments = combine(parts, psf, name=stem)
        if own_psf and len(fine) == len(self.paths) and len({one.shape[1:] for one in fine}) == 1:
            # Of several files each has one band.
            arguments["fine_psfs"] = np.concatenate(fine)
        alike = with_common_units(parts)
        self.rules.factors[:] = [unit_factor(part, alike[0]) for part in alike]
        options = self.options
        if options.bands is not None:
            arguments["bands"] = given_bands(options.bands)
        if options.zero_point is not None:
            given, arguments["unit"] = given_zero_point(
                options.zero_point, arguments["unit"], len(arguments["images"])
            )
            # It is that of one unit in the file.
            arguments["zero_point"] = tuple(
                zero + 2.5 * float(np.log10(factor))
                for zero, factor in zip(given, factors, strict=True)
            )
        if options.time is not None:
            arguments["time"] = options.time
        arguments["corner"] = corners[0]
        arguments["correlation"] = _joined(known, parts)
        where = f"{self.paths[0].name}{'' if len(self.paths) == 1 else ' ...'}"
        where += "" if boxes is None else " (a sample of it)"
        _say_masked(arguments["weights"], arguments["bands"], options, where)
        return arguments

    def _fine_samples(self, order: int) -> list[np.ndarray]:
        """Return the fine PSFs ``[B, Q, Q]`` that `Observation.to_fits` wrote, as a list of one or none."""
        file = self.file(order)
        with _naming(file.path):
            own = [one for one in file.extensions if one.name == FINE_SAMPLES]
            return [np.asarray(one.pixels(), float) for one in own[:1]]

    def _correlation(
        self, order: int, own: list[BandPart], boxes: Sequence[Box] | None
    ) -> np.ndarray | None:
        """Return correlations of the noise in one file, ``[B, k, k]``, or None."""
        file = self.file(order)
        if not file.groups or len({part.weights.shape[1:] for part in own}) > 1:
            # Images of several sizes are refused when they are put together.
            return None
        with _naming(file.path):
            return correlation_in(file, np.concatenate([part.weights for part in own]), boxes)

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of the images, or of their cuts; None where files hold none."""
        file = self.file(0)
        with _naming(file.path):
            return file.image(0).cut.shape if file.groups else None

    def window(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels and weights ``[B, h, w]`` in a box, by the rules of the first reading."""
        images, weights = [], []
        factors = iter(self.rules.factors)
        for order, path in enumerate(self.paths):
            file = self.file(order)
            with _naming(path):
                for number in range(len(file.groups)):
                    pixels, inverse = file.pixels(number, (box,))
                    factor = next(factors)
                    images.append(pixels * factor)
                    weights.append(inverse / factor**2)
        return np.concatenate(images), np.concatenate(weights)

    def psfs(self) -> Any:
        """Return the PSFs in the files, as `psfs_for` takes them."""
        found = []
        for order, path in enumerate(self.paths):
            with _naming(path):
                found.append(_psfs(self.file(order)))
        return found[0] if len(found) == 1 else found

    def _parts(
        self, order: int, boxes: Sequence[Box] | None
    ) -> tuple[list[BandPart], tuple[int, int]]:
        """Return the bands of one file, and the corner of the cut."""
        file = self.file(order)
        with _naming(file.path):
            row = file.product
            if row is not None and row.open is not None:
                own, corner = [by_row(row, row.open, file.path, self.index)], (0, 0)
            else:
                # Only parts that are read one beside the other must be of one shape already here.
                own, corner = _read_images(file, boxes, None if boxes is None else self.shape)
        if len(own) == 1 and own[0].bands is None and len(own[0].images) == 1:
            own = [own[0]._replace(bands=(_stem(file.path),))]
        return own, corner


def _joined(known: Sequence[np.ndarray | None], parts: Sequence[BandPart]) -> np.ndarray | None:
    """Return correlations of all bands, or None; those of files that tell nothing are of white noise."""
    if all(one is None for one in known):
        return None
    if len(known) == 1:
        return known[0]
    half = max(one.shape[-1] for one in known if one is not None) // 2
    out = np.zeros((len(parts), 2 * half + 1, 2 * half + 1))
    out[:, half, half] = 1.0
    for target, one in zip(out, known, strict=True):
        if one is not None:
            own = one.shape[-1] // 2
            inside = slice(half - own, half + own + 1)
            target[inside, inside] = one[0]
    return out


class Rules(NamedTuple):
    """What was decided when files were read first, for parts that are read later.

    Attributes
    ----------
    decided
        Rules of masks and noise, one dictionary for each file.
    factors
        Factors to the common unit, one for each image.
    """

    decided: list[dict[str, Any]]
    factors: list[float]


@contextmanager
def _naming(path: Path):
    """Put the name of a file before messages, and make one of whatever else goes wrong."""
    try:
        yield
    except InputError as error:
        message = str(error)
        named = message.startswith(path.name)
        raise InputError(message if named else f"{path.name}: {message}") from error
    except Warning:
        raise  # asked for by a filter of warnings
    except Exception as error:
        # Damaged headers make astropy raise errors of many kinds.
        raise InputError(f"{path.name} cannot be read: {reason(error)}.") from error


def _say_masked(
    weights: np.ndarray, bands: Sequence[str] | None, options: FileOptions, where: str
) -> None:
    """Say that most pixels of a band are masked; refuse that all of all bands are."""
    shares = (weights == 0).mean(axis=(1, 2))
    most = np.flatnonzero(shares > 0.5)
    mend = "" if options.good is not None else " (--good 1 if the mask is 1 where pixels are good)"
    if (shares == 1).all():
        raise InputError(
            f"{where}: all pixels of all bands are masked; give a mask that leaves some{mend}."
        )
    if most.size == len(weights):
        note(f"{where}: {shares.mean():.0%} of the pixels are masked{mend}.")
    elif most.size:
        said = [
            f"{shares[one]:.0%} of band {bands[one] if bands else one}" for one in map(int, most)
        ]
        note(f"{where}: {', '.join(said)} are masked{mend}.")


def _say_detectors(mosaic: str, psf: Any) -> None:
    """Say that PSFs are those of a detector, where the image is a mosaic."""
    grids = detector_grids(psf)
    if grids:
        note(
            f"{grids[0]} is a grid of PSFs of a detector, and {mosaic}: they were evaluated at the "
            "mosaic's pixels, and taken in its orientation and for its pixels; give an image of the "
            "PSF on the mosaic, from its stars or of turned and drizzled models."
        )


def _read_images(
    file: ImageFile, boxes: Sequence[Box] | None, shape: tuple[int, int] | None
) -> tuple[list[BandPart], tuple[int, int]]:
    for number in range(len(file.groups)) if boxes is not None else ():
        own = file.image(number).cut.shape
        if own != shape:
            raise InputError(
                f"it has {own} pixels but the first has {shape}; cut them to one size."
            )
    parts = [file.part(number, boxes) for number in range(len(file.groups))]
    images = [file.image(number) for number in range(len(file.groups))]
    if file.product is None:
        alike = file.extensions
        if file.options.hdu is not None:
            alike = of_image(alike, file.groups[0])
        rest = passed_over(alike, [one for image in images for one in image.used])
        if rest:
            note(
                f"{file.path.name}: {', '.join(rest)} of the size of the image passed over; "
                "hdu= (--hdu), noise= (--noise) or mask= (--mask) say what to read."
            )
    catalog = next(
        (
            one.table()
            for name in (*(file.product.catalog if file.product else ()), "CATALOG")
            for one in file.extensions
            if one.is_table and one.name == name
        ),
        None,
    )
    parts = _named(parts, file.groups, file.extensions[0].header, file.path, file.options)
    psfs = _psfs(file) or None
    return [part._replace(catalog=catalog, psfs=psfs) for part in parts], images[-1].cut.corner


def _psfs(file: ImageFile) -> list[Any]:
    """Return the PSFs in a file: of several images those of the same versions, in their order."""
    groups, where = file.groups, file.path.name
    names = file.product.psf if file.product else ()
    used = [one for number in range(len(groups)) for one in file.image(number).used]
    # An image with axes of length one is no grid of PSFs.
    extensions = [one for one in file.extensions if one not in used or len(one.shape or ()) < 4]
    versions = [group.image.version for group in groups]
    if len(groups) == 1:
        return sources_in_image(extensions, where, names, versions[0])
    own = [one.version for one in extensions if one.name in {"PSF", *names}]
    if len(set(versions)) == len(versions) and sorted(own) == sorted(versions):
        found = [sources_in_image(extensions, where, names, version) for version in versions]
        if all(len(one) == 1 for one in found):
            return [one[0]._replace(band=None, name="", ordered=True) for one in found]
    return sources_in_image(extensions, where, names)


def _named(
    parts: list[BandPart],
    groups: list[Group],
    primary: fits.Header,
    path: Path,
    options: FileOptions,
) -> list[BandPart]:
    """Name bands of several HDUs: by their own cards, the names of HDUs, or numbers."""
    if len(parts) == 1:
        return parts
    count = sum(part.images.shape[0] for part in parts)
    names = header_bands(primary, count) if count > 1 else None
    if names is not None and len(names) == count:
        starts = np.cumsum([0] + [part.images.shape[0] for part in parts])
        return [
            part._replace(bands=tuple(names[start : start + part.images.shape[0]]))
            for part, start in zip(parts, starts)
        ]
    known = [part.bands for part in parts]
    if all(known) and len({band for bands in known for band in bands or ()}) == count:
        return parts
    if (any(known) and options.bands is None) or _other_sky(parts):
        image = groups[0].image
        first = exact(image)
        said = "show different parts of the sky" if _other_sky(parts) else "have one band's name"
        raise InputError(
            f"{path.name} holds {len(parts)} images {image.name} that {said}, as those of chips "
            f"do; choose one with hdu={first!r} (--hdu {first})."
        )
    names = tuple(f"band{order}" for order in range(count))
    if options.bands is None:
        note(
            f"{path.name} holds {len(parts)} images {groups[0].image.name}, which were taken as "
            f"bands {', '.join(names)}; bands= (--bands) names them, hdu= (--hdu) chooses one."
        )
    return [part._replace(bands=(name,)) for part, name in zip(parts, names)]


def _other_sky(parts: Sequence[BandPart]) -> bool:
    places = [part.wcs.wcs.crval for part in parts if part.wcs is not None]
    pixels = [part.wcs.wcs.crpix for part in parts if part.wcs is not None]
    return any(
        not (np.allclose(places[0], place, atol=1e-7) and np.allclose(pixels[0], pixel, atol=1e-2))
        for place, pixel in zip(places, pixels)
    )


def _common_stem(paths: Sequence[Path]) -> str:
    stems = [_stem(path) for path in paths]
    # The common prefix of characters, not of folders.
    common = os.path.commonprefix(stems) if len(stems) > 1 else ""  # noqa: RUF071
    return common.rstrip("-_. ") or stems[0]


def _stem(path: Path) -> str:
    name = path.name
    for ending in sorted((*FITS_ENDINGS, *NPZ_ENDINGS), key=len, reverse=True):
        if name.lower().endswith(ending):
            # `x.fits.fz` has two endings.
            return name[: -len(ending)].removesuffix(".fits")
    return path.stem
