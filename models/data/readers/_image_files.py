"""One open FITS file: the pixels of its images, with the noise and masks that belong to them."""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.wcs.utils import proj_plane_pixel_area

from scorepriors._errors import InputError
from scorepriors.models.data._checks import broadcast_mask
from scorepriors.models.data._times import middle_of_exposure
from scorepriors.models.data._warnings import note

from ._bands import BandPart
from ._cards import (
    celestial_wcs,
    check_plausible,
    header_bands,
    header_unit,
    header_zero_point,
    merged,
    pixel_area,
    refuse_planes,
    says_nothing,
)
from ._cutouts import Box, Cut, cut_box
from ._files import Extension, open_fits, split_hdu
from ._masks import mask_planes, mask_rule
from ._names import MASK_NAMES, NOISE_NAMES, Group, find_partner, found, is_band
from ._noise import kind_of, kind_of_file, noise_factor, noise_rule
from ._options import FileOptions
from ._partners import (
    Image,
    Partner,
    all_beside,
    beside,
    checked_shape,
    exact,
    only_image,
    pixel_side,
)
from ._products import Product, by_row

#: Powers of noise that give standard deviations.
_POWERS = {"variance": 0.5, "deviation": 1.0, "ivar": -0.5}

#: Largest relative difference of sides of pixels that are the same.
_SAME_SIDE = 0.01

#: Ratio from which two noises in one file contradict each other.
_OTHER_NOISE = 1.1


class ImageFile:
    """One open file, with what its product and its user say of it.

    Whether weights are exposure times, and what the bits of a mask mean, only all pixels tell.  It
    is decided when pixels are read first, and kept in `decided`: with these rules parts that are
    read later are understood alike.
    """

    def __init__(
        self,
        path: Path,
        extensions: list[Extension],
        product: Product | None,
        options: FileOptions,
        groups: Sequence[Group],
        order: int,
        count: int,
        stack: ExitStack,
        often: bool,
        decided: dict[str, Any],
    ):
        self.path, self.extensions, self.product, self.options = path, extensions, product, options
        self.groups, self.order, self.count = list(groups), order, count
        self.several = len(groups) > 1
        self.decided = decided
        self._stack, self._often = stack, often
        self._images: dict[int, Image] = {}
        self._said: set[str] = set()
        self._opened: dict[Path, list[Extension]] = {}

    def image(self, number: int) -> Image:
        """Return the image HDU of a number, and what belongs to it; found once."""
        if number not in self._images:
            self._images[number] = self._find(self.groups[number])
        return self._images[number]

    def pixels(
        self, number: int, boxes: Sequence[Box] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels and weights ``[B, H, W]`` of an image, or of boxes in its cut."""
        about = self.image(number)
        cut = about.cut.at(boxes)
        images = self._linear(about, cut)
        masked = self._masked(number, images.shape, cut)
        masked = masked | self._uncovered(about, masked, cut)
        weights = self._weights(number, images, masked, cut)
        if self.factor == 1.0:
            return images, weights
        return images * self.factor, weights / self.factor**2

    @property
    def factor(self) -> float:
        """What the pixels of the file were multiplied by."""
        return 1.0 if self.product is None else self.product.factor

    def part(self, number: int, boxes: Sequence[Box] | None = None) -> BandPart:
        """Return the bands of one image HDU; of boxes in its cut where they are given."""
        about = self.image(number)
        images, weights = self.pixels(number, boxes)
        header, image, wcs = about.header, about.group.image, about.cut.wcs
        unit = header_unit(header, self.product.unit if self.product else "")
        zero_point = self._zero_point(header, len(images), unit, wcs)
        return BandPart(
            label=f"{self.path.name} [{exact(image)}]" if self.several else self.path.name,
            images=images,
            weights=weights,
            psfs=None,
            bands=self._bands(about.group, header, len(images)),
            wcs=wcs,
            unit=unit,
            zero_point=zero_point,
            catalog=None,
            scale=pixel_side(header) if wcs is None else None,
            whole=about.cut.shape,
            time=middle_of_exposure(header),
        )

    # --- what belongs to an image ---

    def _find(self, group: Group) -> Image:
        image = group.image
        primary = self.extensions[0]
        unreadable = {**dict.fromkeys(image.unreadable), **dict.fromkeys(primary.unreadable)}
        if unreadable:
            note(
                f"{self.path.name}: the card(s) {', '.join(unreadable)} cannot be read and were left "
                "out."
            )
        shape = checked_shape(image)
        wcs = celestial_wcs(self._wcs_headers(image), image.file_hdus, f"{self.path.name}: ")
        cut = cut_box(self.options, wcs, shape[-2:], self.path.name)
        covered = self._partner(group, self.product.coverage if self.product else ())
        header = merged(primary.header, image.header)
        for card, pattern in self.product.named.items() if self.product else ():
            inside = re.search(pattern, self.path.name, re.IGNORECASE)
            if inside and card not in header:
                header[card] = inside[1]
        return Image(
            group,
            header,
            cut,
            self._find_noise(group),
            self._find_mask(group),
            None if covered is None else covered[0],
        )

    def _wcs_headers(self, image: Extension) -> list[fits.Header]:
        """Return the image's header, and the primary one unless that has an image of its own."""
        primary = self.extensions[0]
        own = primary.shape is None or primary.shape[-2:] == (image.shape or ())[-2:]
        return [image.header, primary.header] if own and primary is not image else [image.header]

    def _partner(self, group: Group, names: Sequence[str], shared: bool = True):
        """Return the HDU that belongs to an image, also where one of several was chosen."""
        alike = [one for one in self.extensions if one.name and one.name == group.image.name]
        several = self.several or len(alike) > 1
        return find_partner(self.extensions, names, group, several, shared)

    def _find_noise(self, group: Group) -> Partner:
        given = self.options.one_of("noise", self.order, self.count)
        product = self.product
        if given is None:
            own = dict(product.noise) if product else {}
            # Relative weights come after all that is absolute.
            relative = ("exposure", "weight", "wht")
            last = [name for name, kind in own.items() if kind in relative]
            names = [name for name in own if name not in last]
            names += [n for n, kind in NOISE_NAMES.items() if n not in own and kind not in relative]
            names += [*last, *(name for name in NOISE_NAMES if name not in (*names, *last))]
            partner = self._partner(group, names, shared=False)
            if partner is not None:
                noise, name = partner
                kind = self.options.noise_kind or own.get(name, "")
                if product is not None and not self.options.noise_kind and kind == "exposure":
                    self._say(product.noise_note)
                return Partner(noise, noise.label, kind or kind_of(name, noise.header, noise.label))
            given = beside(self.path, product.noise_file if product else None)
        if given is None and product is not None and product.variance is not None:
            self._say(product.noise_note)
            return Partner(None, "the noise", "variance", given=True)
        if given is None:
            if sum(one.name == group.image.name for one in self.extensions) > 1:
                raise InputError(
                    f"{exact(group.image)} has no noise extension of its own; found "
                    f"{found(self.extensions)}."
                )
            raise InputError(
                f"no noise extension (one of {', '.join(NOISE_NAMES)}); found "
                f"{found(self.extensions)}; give it with noise= and noise_kind= (--noise FILE "
                "--noise-kind variance)."
            )
        path, hdu = split_hdu(given)
        noise = only_image(self._open(path), hdu, tuple(NOISE_NAMES), path.name, group.image)
        kind = self.options.noise_kind or self._kind_beside(path)
        kind = kind or kind_of(noise.name, noise.header, noise.label) or kind_of_file(path)
        if not kind:
            raise InputError(
                f"{path.name} does not say what kind of noise it holds; say noise_kind= "
                "(--noise-kind variance, deviation, ivar or exposure)."
            )
        own_file = path.resolve() == self.path.resolve()
        return Partner(noise, f"{path.name} [{noise.label}]", kind, own_file, given=True)

    def _say(self, sentence: str) -> None:
        """Say once what the row of the product did, if there is something to say."""
        if self.product is not None and sentence and sentence not in self._said:
            self._said.add(sentence)
            note(f"{self.path.name} is a {self.product.name}: {sentence}")

    def _kind_beside(self, path: Path) -> str:
        """Return the kind of noise of the product's file beside the image; "" for any other file."""
        if self.product is None:
            return ""
        known = {one.resolve() for one in all_beside(self.path, self.product.noise_file)}
        return self.product.noise_file_kind if path.resolve() in known else ""

    def _find_mask(self, group: Group) -> Partner | None:
        given = self.options.one_of("mask", self.order, self.count)
        product = self.product
        if given is None:
            names = (*(product.mask if product else ()), *MASK_NAMES)
            partner = self._partner(group, names)
            if partner is not None:
                what = f"{self.path.name} [{partner[0].label}]"
                return Partner(partner[0], what, more=self._more_planes(partner[0]))
            given = beside(self.path, product.mask_file if product else None)
        if given is None:
            if self.options.good is not None or self.options.bad_planes is not None:
                raise InputError(
                    f"there is no mask for good= or bad_planes=; found {found(self.extensions)}; "
                    "give it with mask= (--mask)."
                )
            return None
        path, hdu = split_hdu(given)
        mask = only_image(self._open(path), hdu, MASK_NAMES, path.name, group.image)
        own_file = path.resolve() == self.path.resolve()
        return Partner(mask, f"{path.name} [{mask.label}]", own=own_file, given=True)

    def _more_planes(self, mask: Extension) -> tuple[Extension, ...]:
        """Return the HDUs of a mask's planes beyond the 31 that have a bit in its first one.

        Files of lsst-images have them: of the mask's name and shape, with names of planes of their own.
        """
        alike = [
            one
            for one in self.extensions
            if one is not mask and one.name == mask.name and one.shape == mask.shape
        ]
        named = all("MSKN0000" in one.header or "MSKN0001" in one.header for one in (mask, *alike))
        return tuple(alike) if named and not self.several else ()

    def _open(self, path: Path) -> list[Extension]:
        """Return the HDUs of a file, which stays open as long as this one."""
        if path.resolve() == self.path.resolve():
            return self.extensions
        if path not in self._opened:
            context = open_fits(path, often=self._often)
            self._opened[path] = self._stack.enter_context(context)
        return self._opened[path]

    # --- pixels ---

    def _linear(self, about: Image, cut: Cut) -> np.ndarray:
        image, product = about.group.image, self.product
        images = cut.of(image, image.label)
        images = images.reshape((-1, *images.shape[-2:]))
        if images.dtype.kind not in "fiub":
            raise InputError(f"the HDU {image.label} holds {images.dtype}; give real numbers.")
        if product is not None and product.scaling is not None:
            images = by_row(product, product.scaling, images, about.header)
        return images

    def _where(self, cut: Cut) -> str:
        """Return the name of the file for sentences with numbers of pixels."""
        return self.path.name if cut.boxes is None else f"{self.path.name} (a sample of it)"

    def _weights(self, number: int, images: np.ndarray, masked: np.ndarray, cut: Cut):
        about = self.image(number)
        noise = about.noise
        if noise.extension is None:
            pixels = cut.each(lambda part: self._calculated(about, part))
            noise_header = fits.Header()
        else:
            pixels = self._noise_pixels(about, cut)
            noise_header = noise.extension.header
        key = f"noise {number}"
        if key not in self.decided:
            self.decided[key] = noise_rule(
                images,
                pixels,
                noise.kind,
                masked,
                what=noise.what,
                where=self._where(cut),
                header=about.header,
                noise_header=noise_header,
                alone=self.count == 1 and not self.several,
            )
            weights = self.decided[key].weights(images, pixels, masked, noise.what)
            if self.product is None and not noise.given:
                self._say_other_noise(about, weights, cut)
            return weights
        return self.decided[key].weights(images, pixels, masked, noise.what)

    def _calculated(self, about: Image, cut: Cut) -> np.ndarray:
        """Return the variance that a product's row calculates from pixels."""
        product = self.product
        assert product is not None
        assert product.variance is not None
        box = cut.box if cut.boxes is None else cut.boxes[0]
        arguments = self._linear(about, cut), about.header, self.extensions, box
        return by_row(product, product.variance, *arguments)

    def _noise_pixels(self, about: Image, cut: Cut) -> np.ndarray:
        extension, what, kind, *_ = about.noise
        assert extension is not None
        pixels = cut.of(extension, what)
        product = self.product
        if product is not None and product.noise_scaling is not None:
            primary = extension.file_hdus[0].header
            header = merged(primary, extension.header)
            pixels = by_row(product, product.noise_scaling, pixels, header)
        unit = header_unit(about.header, product.unit if product else "")
        pixels = pixels * noise_factor(extension.header, unit, kind, what)
        return pixels.reshape((-1, *pixels.shape[-2:]))

    def _say_other_noise(self, about: Image, weights: np.ndarray, cut: Cut) -> None:
        """Say that another noise in the file was passed over, where it means something else."""
        noise, good = about.noise.extension, weights[weights > 0]
        if noise is None or self.options.noise_kind or not good.size:
            return
        own = 1 / np.sqrt(np.median(good))
        for other in self.extensions:
            kind = NOISE_NAMES.get(other.name, "")
            alike = other.version == noise.version and other.shape == noise.shape
            if other is noise or not alike or kind not in _POWERS:
                continue
            try:
                factor = noise_factor(other.header, header_unit(about.header), kind, other.label)
            except InputError:
                continue  # of a unit that can't be compared
            pixels = np.asarray(cut.of(other, other.label), float) * factor
            pixels = pixels[np.isfinite(pixels) & (pixels > 0)]
            ratio = float(np.median(pixels)) ** _POWERS[kind] / own if pixels.size else 1.0
            if abs(np.log(ratio)) > np.log(_OTHER_NOISE):
                note(
                    f"{self.path.name}: the noise is from {noise.label}; {other.label} beside it means "
                    f"{ratio:.2g} times as much: noise= (--noise {self.path.name}[{other.label}]) takes "
                    "that one."
                )

    def _masked(self, number: int, shape: tuple[int, ...], cut: Cut) -> np.ndarray:
        mask = self.image(number).mask
        if mask is None or mask.extension is None:
            return np.zeros(shape, bool)
        masked = np.zeros(shape, bool)
        planes = self._planes_of_each([mask.extension, *mask.more])
        for order, (extension, own) in enumerate(zip((mask.extension, *mask.more), planes)):
            what = mask.what if order == 0 else f"{self.path.name} [{extension.label}]"
            pixels = cut.of(extension, what)
            while pixels.ndim > 2 and pixels.shape[0] == 1:
                pixels = pixels[0]
            key = f"mask {number}" if order == 0 else f"mask {number} {order}"
            if key not in self.decided:
                self.decided[key] = mask_rule(
                    pixels,
                    extension.header,
                    what if cut.boxes is None else f"{what} (a sample of it)",
                    product=self.product,
                    good=self.options.good,
                    bad_planes=own,
                )
            masked |= broadcast_mask(self.decided[key].excluded(pixels), shape)
        return masked

    def _planes_of_each(self, masks: Sequence[Extension]) -> list[tuple[str | int, ...] | None]:
        """Return the bad planes that a user names for each HDU of a mask; bits are of the first."""
        planes = self.options.planes
        if planes is None or len(masks) == 1:
            return [planes] * len(masks)
        named = [mask_planes(mask.header) for mask in masks]
        elsewhere = {plane for one in named[1:] for plane in one} - {*named[0]}
        first = tuple(plane for plane in planes if plane not in elsewhere)
        return [first, *(tuple(p for p in planes if p in one) for one in named[1:])]

    def _uncovered(self, about: Image, masked: np.ndarray, cut: Cut) -> np.ndarray:
        """Return the pixels where a product's map of its coverage is zero."""
        coverage = about.coverage
        if coverage is None:
            return np.zeros(masked.shape, bool)
        empty = np.broadcast_to(cut.of(coverage, coverage.label) == 0, masked.shape)
        count = np.count_nonzero(empty & ~masked)
        if count:
            note(
                f"{self._where(cut)}: {count} of {empty.size} pixels have no data (zero in "
                f"{coverage.label}) and were masked."
            )
        return empty

    # --- cards ---

    def _bands(self, group: Group, header: fits.Header, num_bands: int):
        product = self.product
        if self.options.bands is not None:
            product = None  # what the user says goes, and a card that can't be right may stay
        elif num_bands > 1 and len(group.image.shape or ()) == 3:
            refuse_planes(header, num_bands)
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
            if own is None and not self.several and not is_band(word):
                own = header_bands(header, num_bands)  # the name is that of a chip
            if own is not None or not word or word.isdigit():
                return own
            return (word.lower() if len(word) == 1 and word in "UGRIZ" else word,)
        return header_bands(header, num_bands)

    def _zero_point(self, header: fits.Header, num_bands: int, unit: units.UnitBase | None, wcs):
        product = self.product
        if product is not None and product.native_side and wcs is not None:
            self._check_side(product, wcs)
        if self.options.zero_point is not None:
            return None
        zero = None
        if product is not None and product.zero_point_in is not None:
            zero = by_row(product, product.zero_point_in, self.extensions)
        if zero is not None:
            found: tuple[float, ...] | None = (float(zero),) * num_bands
        elif product is not None and product.zero_point is not None:
            zero = by_row(product, product.zero_point, header)
            self._say(product.zero_point_note if zero is not None else "")
            found = None if zero is None else (float(zero),) * num_bands
        else:
            found = header_zero_point(header, num_bands, unit, pixel_area(header, wcs, unit))
        if product is not None:
            for zero in found or ():
                # A card that was never set holds 0: one count as bright as Vega.
                check_plausible(zero, f"the cards of a {product.name}", 5.0)
        return found

    def _check_side(self, product: Product, wcs) -> None:
        """Refuse pixels that are averages of the survey's, unless the user says what they are worth."""
        side = 3600 * float(np.sqrt(proj_plane_pixel_area(wcs)))
        share = (side / product.native_side) ** 2
        if abs(np.sqrt(share) - 1) < _SAME_SIDE:
            return
        how = "averaged" if share > 1 else "interpolated"
        made = f"its pixels of {side:.4g} arcsec were {how} from the survey's of {product.native_side:g}"
        if self.options.zero_point is None:
            raise InputError(
                f"{made}, so sums of them would be {1 / share:.3g} times the fluxes; leave pixscale out "
                "of the address of the cutout, or say what one unit of a pixel is worth with "
                "zero_point= (--zero-point)."
            )
        self._say(f"{made}: check its noise, and give a PSF on the same pixels.")
