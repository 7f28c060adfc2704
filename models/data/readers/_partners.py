"""An image of a FITS file, and the noise and masks that belong to it, in the file or beside it."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from astropy.io import fits

from scorepriors._errors import InputError

from ._cards import number
from ._cutouts import Cut
from ._files import Extension
from ._names import Group, found, pointed


class Partner(NamedTuple):
    """The HDU of a noise or a mask, of the image's file or another.

    Attributes
    ----------
    extension
        The HDU; None for noise that is calculated from the image.
    what
        Name for messages.
    kind
        Kind of a noise.
    own
        Whether it is one of the image's own file.
    given
        Whether it was asked for, or named by a rule: then other noises are not compared.
    more
        Further HDUs of a mask, for its planes that had no bit in the first.
    """

    extension: Extension | None
    what: str
    kind: str = ""
    own: bool = True
    given: bool = False
    more: tuple[Extension, ...] = ()


class Image(NamedTuple):
    """An image HDU and what is the same for all of its pixels.

    Attributes
    ----------
    group
        The HDU.
    header
        Its cards, and those of the primary header that it lacks.
    cut
        The part that was asked for.
    noise, mask, coverage
        What belongs to it; None where there is no mask, and no map of the coverage.
    """

    group: Group
    header: fits.Header
    cut: Cut
    noise: Partner
    mask: Partner | None
    coverage: Extension | None

    @property
    def used(self) -> list[Extension]:
        """HDUs of the image's own file that it takes."""
        partners = [one for one in (self.noise, self.mask) if one is not None and one.own]
        used = [one.extension for one in partners if one.extension is not None]
        used += [more for one in partners for more in one.more]
        return [self.group.image, *used]


def checked_shape(image: Extension) -> tuple[int, ...]:
    """Return the shape of an image HDU without leading axes of length one."""
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
        raise InputError(f"the HDU {image.label} is {shape}, with the bands last; give [B, H, W].")
    return shape


def pixel_side(header: fits.Header) -> float | None:
    """Return the card PIXSCALE, arcseconds per pixel; None without it."""
    scale = number(header, "PIXSCALE")
    if scale is not None and not scale > 0:
        raise InputError(f"the card PIXSCALE holds {scale:g}; give arcseconds per pixel.")
    return scale


def exact(extension: Extension) -> str:
    """Return the name of an HDU with its version, which is needed where there are several."""
    return f"{extension.name},{extension.version}" if extension.name else extension.label


def only_image(
    extensions: Sequence[Extension],
    hdu: str | None,
    names: Sequence[str],
    where: str,
    image: Extension | None = None,
) -> Extension:
    """Return the image of a file with noise or a mask: by HDU, by name, or the only one.

    Where there are several, as in files of all chips of a camera, the one with the name and version of
    the `image` belongs to it.
    """
    if hdu is not None:
        return pointed(extensions, hdu, where)
    images = [one for one in extensions if one.shape is not None and len(one.shape) > 1]
    for name in names:
        named = [one for one in images if one.name == name]
        if named:
            version = None if image is None else image.version
            return next((one for one in named if one.version == version), named[0])
    if len(images) == 1:
        return images[0]
    if image is not None and image.name:
        alike = (image.name, image.version)
        found_alike = [
            one for one in images if one is not image and (one.name, one.version) == alike
        ]
        if len(found_alike) == 1:
            return found_alike[0]
    raise InputError(
        f"{where} holds {len(images)} images ({found(extensions)}); say which, as "
        f"{where}[1] or {where}[NAME]."
    )


def beside(path: Path, rule: tuple[str, str] | None) -> Path | None:
    """Return the file beside another one that a product's rule names, if it is there.

    Of ``*`` in the name anything may stand, and one of both files may be compressed.
    """
    found = all_beside(path, rule)
    if len(found) > 1:
        raise InputError(
            f"{found[0].name} and {found[1].name} both go with {path.name}; say which with noise= and "
            "mask= (--noise, --mask)."
        )
    return found[0] if found else None


def all_beside(path: Path, rule: tuple[str, str] | None) -> list[Path]:
    """Return the files beside another one that a product's rule may mean."""
    if rule is None:
        return []
    for replacement in rule[1].split("|"):
        name = re.sub(rule[0], replacement, path.name, count=1)
        if name == path.name:
            return []
        bare = name.removesuffix(".gz").removesuffix(".fz")
        for one in (name, f"{name}.gz", f"{name}.fz", bare):
            found = sorted(path.parent.glob(glob.escape(one).replace("[*]", "*")))
            found = [other for other in found if other != path]
            if found:
                return found
    return []
