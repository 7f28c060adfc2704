"""Observations from FITS files: one for all bands, or one per band."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from scorepriors._errors import InputError
from scorepriors.models.data._checks import broadcast_mask
from scorepriors.models.data._warnings import note
from scorepriors.models.data.psfs._contents import sources_in_image

from ._bands import BandPart, combine
from ._cards import (
    celestial_wcs,
    check_plausible,
    given_zero_point,
    header_bands,
    header_unit,
    header_zero_point,
    merged,
    number,
    pixel_area,
    says_nothing,
)
from ._cutouts import Cut, cut_box
from ._files import (
    FITS_ENDINGS,
    NPZ_ENDINGS,
    Extension,
    Source,
    check_file,
    open_fits,
    reason,
    split_hdu,
)
from ._masks import masked_pixels
from ._meds import check_same_object
from ._names import (
    MASK_NAMES,
    NOISE_NAMES,
    Group,
    find_images,
    find_partner,
    found,
    passed_over,
    pointed,
)
from ._noise import file_weights, kind_of, kind_of_file, noise_factor
from ._options import FileOptions, given_bands
from ._products import Product, by_row, recognize

#: Powers of noise that give standard deviations.
_POWERS = {"variance": 0.5, "deviation": 1.0, "ivar": -0.5}

#: Ratio from which two noises in one file contradict each other.
_OTHER_NOISE = 1.1


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
    paths = [Path(p) for p in ([source] if isinstance(source, str | os.PathLike) else source)]
    if not paths:
        raise InputError("no files given; give one FITS file, or one per band.")
    parts: list[BandPart] = []
    psfs: list[Any] = []
    corners: list[tuple[int, int]] = []
    for order, path in enumerate(paths):
        check_file(path, FITS_ENDINGS, "FITS file")
        try:
            read = _read_file(path, options, order, len(paths), index)
        except InputError as error:
            message = str(error)
            named = message.startswith(path.name)
            raise InputError(message if named else f"{path.name}: {message}") from error
        except Warning:
            raise  # asked for by a filter of warnings
        except Exception as error:
            # Damaged headers make astropy raise errors of many kinds.
            raise InputError(f"{path.name} cannot be read: {reason(error)}.") from error
        own, corner = read
        if len(own) == 1 and own[0].bands is None and own[0].images.shape[0] == 1:
            own = [own[0]._replace(bands=(_stem(path),))]
        bands = sum(part.images.shape[0] for part in own)
        if len(paths) > 1 and bands != 1:
            raise InputError(
                f"{path.name} holds {bands} bands; of several files each must hold one."
            )
        for part in own:
            if psf is None and part.psfs is None:
                raise InputError(
                    f"{path.name} has no PSF extension; add one or give the PSF's file as psf= "
                    "(--psf)."
                )
        psfs.append(own[0].psfs)
        parts += own
        corners.append(corner)
    stem = _stem(paths[0])
    if len(paths) > 1:
        # The common prefix of characters, not of folders.
        common = os.path.commonprefix([_stem(path) for path in paths])  # noqa: RUF071
        stem = common.rstrip("-_. ") or stem
    if index is not None:
        check_same_object(parts)
        stem = f"{stem}-{index}"
    if psf is None:
        psf = psfs[0] if len(paths) == 1 else psfs
    arguments = combine(parts, psf, name=stem)
    if options.bands is not None:
        arguments["bands"] = given_bands(options.bands)
    if options.zero_point is not None:
        arguments["zero_point"], arguments["unit"] = given_zero_point(
            options.zero_point, arguments["unit"], len(arguments["images"])
        )
    arguments["corner"] = corners[0]
    where = f"{paths[0].name}{'' if len(paths) == 1 else ' ...'}"
    _say_masked(arguments["weights"], arguments["bands"], options, where)
    return arguments


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


def _read_file(
    path: Path, options: FileOptions, order: int, count: int, index: int | None
) -> tuple[list[BandPart], tuple[int, int]]:
    """Return the bands of one file and the corner of the cut."""
    with open_fits(path) as extensions:
        product = recognize(extensions, path)
        if product is not None:
            if product.note:
                note(f"{path.name} is a {product.name}: {product.note}")
            if product.open is not None:
                useless = {*options.given} - {"zero_point", "bands"}
                if useless:
                    raise InputError(
                        f"a {product.name} has its own noise, mask and cutouts; leave out "
                        f"{', '.join(f'{name}=' for name in sorted(useless))}."
                    )
                return [by_row(product, product.open, path, index)], (0, 0)
        if index is not None:
            raise InputError(f"FITS files hold one blend, not a set; leave out index={index}.")
        groups = find_images(extensions, product, options.hdu, path.name)
        own = _File(path, extensions, product, options, order, count, len(groups) > 1)
        parts, used = [], []
        for group in groups:
            part, cut, seen = own.part(group)
            parts.append(part)
            used += seen
        if product is None and options.hdu is None:
            rest = passed_over(extensions, used)
            if rest:
                note(
                    f"{path.name}: {', '.join(rest)} of the size of the image passed over; "
                    "hdu= (--hdu), noise= (--noise) or mask= (--mask) say what to read."
                )
        catalog = next(
            (
                one.table()
                for name in (*(product.catalog if product else ()), "CATALOG")
                for one in extensions
                if one.is_table and one.name == name
            ),
            None,
        )
        parts = _named(parts, groups, extensions[0].header, path, options)
        # An image with axes of length one is no grid of PSFs.
        others = [one for one in extensions if one not in used or len(one.shape or ()) < 4]
        psfs = _psfs(others, groups, product.psf if product else (), path.name)
    return [part._replace(catalog=catalog, psfs=psfs or None) for part in parts], cut.corner


def _psfs(
    extensions: Sequence[Extension], groups: Sequence[Group], names: Sequence[str], where: str
) -> list[Any]:
    """Return the PSFs in a file: of several images those of the same versions, in their order."""
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
        first = _exact(image)
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


class _File:
    """One open file, with what its product and its user say of it."""

    def __init__(self, path, extensions, product, options, order, count, several):
        self.path: Path = path
        self.extensions: list[Extension] = extensions
        self.product: Product | None = product
        self.options: FileOptions = options
        self.order, self.count, self.several = order, count, several

    def _partner(self, group: Group, names: Sequence[str], shared: bool = True):
        """Return the HDU that belongs to an image, also where one of several was chosen."""
        alike = [one for one in self.extensions if one.name and one.name == group.image.name]
        several = self.several or len(alike) > 1
        return find_partner(self.extensions, names, group, several, shared)

    def part(self, group: Group) -> tuple[BandPart, Cut, list[Extension]]:
        """Return the bands of one image HDU, the cut, and the HDUs that were used."""
        image, product = group.image, self.product
        primary = self.extensions[0].header
        unreadable = {
            **dict.fromkeys(image.unreadable),
            **dict.fromkeys(self.extensions[0].unreadable),
        }
        if unreadable:
            note(
                f"{self.path.name}: the card(s) {', '.join(unreadable)} cannot be read and were left "
                "out."
            )
        header = merged(primary, image.header)
        shape = image.shape or ()
        while len(shape) > 2 and shape[0] == 1:
            shape = shape[1:]
        if len(shape) not in (2, 3):
            raise InputError(
                f"the HDU {image.label} holds {image.shape}; give an image [H, W] or [B, H, W]."
            )
        if 0 in shape:
            raise InputError(f"the HDU {image.label} holds no pixels, but {image.shape} of them.")
        if len(shape) == 3 and shape[2] < 8 < min(shape[:2]):
            raise InputError(
                f"the HDU {image.label} is {shape}, with the bands last; give [B, H, W]."
            )
        where = f"{self.path.name}: "
        wcs = celestial_wcs(self._wcs_headers(image), image.file_hdus, where)
        cut = cut_box(self.options, wcs, shape[-2:], self.path.name)
        wcs = cut.wcs
        images = image.pixels(cut.box)
        images = images.reshape((-1, *images.shape[-2:]))
        if images.dtype.kind not in "fiub":
            raise InputError(f"the HDU {image.label} holds {images.dtype}; give real numbers.")
        if product is not None and product.scaling is not None:
            images = by_row(product, product.scaling, images, header)
        num_bands = len(images)
        masked, used = self._mask(group, images.shape, cut)
        masked = masked | self._uncovered(group, masked, cut)
        weights, noise_hdu = self._weights(group, header, images, masked, cut)
        used += [image, *([noise_hdu] if noise_hdu is not None else [])]
        unit = header_unit(header, product.unit if product else "")
        zero_point = self._zero_point(header, num_bands, unit, wcs)
        scale = number(header, "PIXSCALE") if wcs is None else None
        if scale is not None and not scale > 0:
            raise InputError(f"the card PIXSCALE holds {scale:g}; give arcseconds per pixel.")
        return (
            BandPart(
                label=f"{self.path.name} [{_exact(image)}]" if self.several else self.path.name,
                images=images,
                weights=weights,
                psfs=None,
                bands=self._bands(group, header, num_bands),
                wcs=wcs,
                unit=unit,
                zero_point=zero_point,
                catalog=None,
                scale=scale,
            ),
            cut,
            used,
        )

    def _wcs_headers(self, image: Extension) -> list[fits.Header]:
        """Return the image's header, and the primary one unless that has an image of its own."""
        primary = self.extensions[0]
        own = primary.shape is None or primary.shape[-2:] == (image.shape or ())[-2:]
        return [image.header, primary.header] if own and primary is not image else [image.header]

    def _bands(self, group: Group, header: fits.Header, num_bands: int):
        product = self.product
        if product is not None and product.bands is not None:
            names = by_row(product, product.bands, header)
            if names is not None and not any(says_nothing(name) for name in names):
                return tuple(names)
        if product is not None and product.bands_in is not None:
            names = by_row(product, product.bands_in, self.extensions)
            if names is not None:
                return tuple(names)
        if self.several or group.suffix:
            # The primary header's filter is not that of each of several images.
            own = header_bands(group.image.header, num_bands)
            word = group.suffix
            if own is not None or not word or word.isdigit():
                return own
            return (word.lower() if len(word) == 1 and word in "UGRIZ" else word,)
        return header_bands(header, num_bands)

    def _zero_point(self, header: fits.Header, num_bands: int, unit, wcs):
        if self.options.zero_point is not None:
            return None
        product = self.product
        zero = None
        if product is not None and product.zero_point_in is not None:
            zero = by_row(product, product.zero_point_in, self.extensions)
        if zero is not None:
            found: tuple[float, ...] | None = (float(zero),) * num_bands
        elif product is not None and product.zero_point is not None:
            zero = by_row(product, product.zero_point, header)
            found = None if zero is None else (float(zero),) * num_bands
        else:
            found = header_zero_point(header, num_bands, unit, pixel_area(header, wcs))
        if product is not None:
            for zero in found or ():
                # A card that was never set holds 0: one count as bright as Vega.
                check_plausible(zero, f"the cards of a {product.name}", 5.0)
        return found

    # --- noise ---

    def _weights(self, group: Group, header, images, masked, cut: Cut):
        given = self.options.one_of("noise", self.order, self.count)
        product = self.product
        beside = _beside(self.path, product.noise_file if product else None)
        if given is None:
            own = dict(product.noise) if product else {}
            names = {name: "" for name in NOISE_NAMES if name not in own}
            partner = self._partner(group, (*own, *names), shared=False)
            if partner is not None:
                noise, name = partner
                kind = self.options.noise_kind or own.get(name, "")
                kind = kind or kind_of(name, noise.header, noise.label)
                weights = self._understand(noise, kind, header, images, masked, cut)
                if product is None:
                    self._say_other_noise(noise, weights, header, cut)
                return weights, noise
            given = beside
        if given is None and product is not None and product.variance is not None:
            weights = file_weights(
                images,
                by_row(product, product.variance, images, header, self.extensions, cut.box),
                "variance",
                masked,
                what="the noise",
                where=self.path.name,
                header=header,
                noise_header=fits.Header(),
            )
            return weights, None
        if given is None:
            if sum(one.name == group.image.name for one in self.extensions) > 1:
                raise InputError(
                    f"{_exact(group.image)} has no noise extension of its own; found "
                    f"{found(self.extensions)}."
                )
            raise InputError(
                f"no noise extension (one of {', '.join(NOISE_NAMES)}); found "
                f"{found(self.extensions)}; give it with noise= and noise_kind= (--noise FILE "
                "--noise-kind variance)."
            )
        path, hdu = split_hdu(given)
        with open_fits(path) as extensions:
            noise = _only_image(extensions, hdu, tuple(NOISE_NAMES), path.name)
            kind = self.options.noise_kind or (product.noise_file_kind if product else "")
            kind = kind or kind_of(noise.name, noise.header, noise.label) or kind_of_file(path)
            if not kind:
                raise InputError(
                    f"{path.name} does not say what kind of noise it holds; say noise_kind= "
                    "(--noise-kind variance, deviation, ivar or exposure)."
                )
            what = f"{path.name} [{noise.label}]"
            weights = self._understand(noise, kind, header, images, masked, cut, what)
            return weights, self._same(path, noise)

    def _say_other_noise(self, noise: Extension, weights, header, cut: Cut) -> None:
        """Say that another noise in the file was passed over, where it means something else."""
        good = weights[weights > 0]
        if self.options.noise_kind or not good.size:
            return
        own = 1 / np.sqrt(np.median(good))
        for other in self.extensions:
            kind = NOISE_NAMES.get(other.name, "")
            alike = other.version == noise.version and other.shape == noise.shape
            if other is noise or not alike or kind not in _POWERS:
                continue
            factor = noise_factor(other.header, header_unit(header), kind, other.label)
            pixels = np.asarray(cut.of(other, other.label), float) * factor
            pixels = pixels[np.isfinite(pixels) & (pixels > 0)]
            ratio = float(np.median(pixels)) ** _POWERS[kind] / own if pixels.size else 1.0
            if abs(np.log(ratio)) > np.log(_OTHER_NOISE):
                note(
                    f"{self.path.name}: the noise is from {noise.label}; {other.label} beside it means "
                    f"{ratio:.2g} times as much: noise= (--noise {self.path.name}[{other.label}]) takes "
                    "that one."
                )

    def _understand(self, noise: Extension, kind, header, images, masked, cut: Cut, what=""):
        what = what or noise.label
        pixels = cut.of(noise, what)
        product = self.product
        if product is not None and product.noise_scaling is not None:
            primary = noise.file_hdus[0].header
            pixels = by_row(product, product.noise_scaling, pixels, merged(primary, noise.header))
        instead = product.unit if product else ""
        pixels = pixels * noise_factor(noise.header, header_unit(header, instead), kind, what)
        return file_weights(
            images,
            pixels.reshape((-1, *pixels.shape[-2:])),
            kind,
            masked,
            what=what,
            where=self.path.name,
            header=header,
            noise_header=noise.header,
            alone=self.count == 1 and not self.several,
        )

    # --- mask ---

    def _mask(self, group: Group, shape, cut: Cut) -> tuple[np.ndarray, list[Extension]]:
        given = self.options.one_of("mask", self.order, self.count)
        product = self.product
        masked = np.zeros(shape, bool)
        if given is None:
            names = (*(product.mask if product else ()), *MASK_NAMES)
            partner = self._partner(group, names)
            if partner is not None:
                mask, _ = partner
                masked = masked | self._excluded(
                    mask, shape, cut, f"{self.path.name} [{mask.label}]"
                )
                return masked, [mask]
            given = _beside(self.path, product.mask_file if product else None)
        if given is None:
            if self.options.good is not None or self.options.bad_planes is not None:
                raise InputError(
                    f"there is no mask for good= or bad_planes=; found {found(self.extensions)}; "
                    "give it with mask= (--mask)."
                )
            return masked, []
        path, hdu = split_hdu(given)
        with open_fits(path) as extensions:
            mask = _only_image(extensions, hdu, MASK_NAMES, path.name)
            excluded = self._excluded(mask, shape, cut, f"{path.name} [{mask.label}]")
            same = self._same(path, mask)
            return masked | excluded, [] if same is None else [same]

    def _same(self, path: Path, extension: Extension) -> Extension | None:
        """Return this file's own HDU, if that is what was opened by a path."""
        own = path.resolve() == self.path.resolve()
        return self.extensions[extension.number] if own else None

    def _uncovered(self, group: Group, masked: np.ndarray, cut: Cut) -> np.ndarray:
        """Return the pixels where a product's map of its coverage is zero."""
        names = self.product.coverage if self.product else ()
        partner = self._partner(group, names)
        if partner is None:
            return np.zeros(masked.shape, bool)
        empty = np.broadcast_to(cut.of(partner[0], partner[0].label) == 0, masked.shape)
        count = np.count_nonzero(empty & ~masked)
        if count:
            note(
                f"{self.path.name}: {count} of {empty.size} pixels have no data (zero in "
                f"{partner[0].label}) and were masked."
            )
        return empty

    def _excluded(self, mask: Extension, shape, cut: Cut, what: str) -> np.ndarray:
        pixels = cut.of(mask, what)
        while pixels.ndim > 2 and pixels.shape[0] == 1:
            pixels = pixels[0]
        excluded = masked_pixels(
            pixels,
            mask.header,
            what,
            product=self.product,
            good=self.options.good,
            bad_planes=self.options.planes,
        )
        return broadcast_mask(excluded, shape)


def _exact(extension: Extension) -> str:
    """Return the name of an HDU with its version, which is needed where there are several."""
    return f"{extension.name},{extension.version}" if extension.name else extension.label


def _only_image(
    extensions: Sequence[Extension], hdu: str | None, names: Sequence[str], where: str
) -> Extension:
    """Return the image of a file with noise or a mask: by HDU, by name, or the only one."""
    if hdu is not None:
        return pointed(extensions, hdu, where)
    images = [one for one in extensions if one.shape is not None and len(one.shape) > 1]
    for name in names:
        for one in images:
            if one.name == name:
                return one
    if len(images) != 1:
        raise InputError(
            f"{where} holds {len(images)} images ({found(extensions)}); say which, as "
            f"{where}[1] or {where}[NAME]."
        )
    return images[0]


def _beside(path: Path, rule: tuple[str, str] | None) -> Path | None:
    """Return the file beside another one that a product's rule names, if it is there.

    Of ``*`` in the name anything may stand, and one of both files may be compressed.
    """
    if rule is None:
        return None
    for replacement in rule[1].split("|"):
        name = re.sub(rule[0], replacement, path.name, count=1)
        if name == path.name:
            return None
        bare = name.removesuffix(".gz").removesuffix(".fz")
        for one in (name, f"{name}.gz", f"{name}.fz", bare):
            found = sorted(path.parent.glob(glob.escape(one).replace("[*]", "*")))
            found = [other for other in found if other != path]
            if len(found) > 1:
                raise InputError(
                    f"{found[0].name} and {found[1].name} both go with {path.name}; say which "
                    "with noise= and mask= (--noise, --mask)."
                )
            if found:
                return found[0]
    return None


def _stem(path: Path) -> str:
    name = path.name
    for ending in sorted((*FITS_ENDINGS, *NPZ_ENDINGS), key=len, reverse=True):
        if name.lower().endswith(ending):
            # `x.fits.fz` has two endings.
            return name[: -len(ending)].removesuffix(".fits")
    return path.stem
