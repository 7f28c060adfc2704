"""Wavelengths of filters, by the names that headers give them.

Pivot wavelengths in nm, from the throughputs that the observatories publish, the atmosphere
included where there is one.  A prior on colors needs them to some per cent only.
"""

import re

#: Filters of surveys known by a letter; where the survey is not named, its letter means this.
#: Optical ones are those of the LSST, infrared ones those of Euclid.
WAVELENGTHS = {
    "u": 367,
    "g": 483,
    "r": 622,
    "VIS": 715,
    "i": 755,
    "z": 869,
    "y": 971,
    "Y": 1081,
    "J": 1367,
    "H": 1771,
    "K": 2150,
    "Ks": 2150,
}

#: Filters of single surveys and cameras, by the words that name these in headers and in the
#: names of files, for letters that mean another filter there.
_CAMERAS = {
    ("hsc", "wishes"): {"g": 479, "r": 621, "i": 770, "z": 890, "y": 976},
    ("des", "decam", "decals", "delve"): {
        "u": 386,
        "g": 482,
        "r": 642,
        "i": 781,
        "z": 916,
        "y": 988,
    },
    # After DECam, whose headers have "r DECam SDSS c0002".
    ("sdss", "boss"): {"u": 359, "g": 470, "r": 618, "i": 750, "z": 890},
    ("panstarrs", "starrs", "ps1", "ps2", "gpc1"): {
        "g": 485,
        "r": 620,
        "i": 754,
        "z": 867,
        "y": 963,
        "w": 608,
    },
    ("ztf",): {"g": 477, "r": 640, "i": 789, "zg": 477, "zr": 640, "zi": 789},
    ("megacam", "megaprime", "cfht", "cfis", "unions", "cfhtls"): {
        "u": 368,
        "g": 476,
        "r": 638,
        "i": 768,
        "z": 898,
    },
    ("vista", "vircam", "viking", "ultravista", "video", "vhs"): {
        "z": 878,
        "y": 1021,
        "j": 1253,
        "h": 1643,
        "k": 2150,
        "ks": 2150,
    },
    ("2mass", "twomass"): {"j": 1235, "h": 1646, "k": 2160, "ks": 2160},
    ("ukidss", "wfcam", "uhs"): {"z": 883, "y": 1031, "j": 1250, "h": 1636, "k": 2206},
    ("euclid", "nisp", "nir", "vis"): {"vis": 715, "y": 1081, "j": 1367, "h": 1771},
    ("skymapper",): {"u": 350, "v": 384, "g": 510, "r": 617, "i": 779, "z": 916},
    ("galex",): {"fuv": 153, "nuv": 230, "f": 153, "n": 230},
    ("irac", "spitzer"): {"1": 3551, "2": 4496, "3": 5725, "4": 7884},
}

#: Words that are filters in themselves: WISE, IRAC, GALEX, primed ones (LCO), and the letters of
#: Johnson and Cousins that no survey uses otherwise.
_WORDS = {
    "w1": 3368,
    "w2": 4618,
    "w3": 12073,
    "w4": 22194,
    "irac1": 3551,
    "irac2": 4496,
    "irac3": 5725,
    "irac4": 7884,
    "ch1": 3551,
    "ch2": 4496,
    "ch3": 5725,
    "ch4": 7884,
    "fuv": 153,
    "nuv": 230,
    "up": 355,
    "gp": 477,
    "rp": 622,
    "ip": 755,
    "zs": 870,
    "b": 437,
    "v": 548,
}

#: Filters of space telescopes that are not, to some per mille, where their digits say.
_SPACE = {
    # WFC3/UVIS and ACS; long-pass filters are named by their edge.
    "F200LP": 497,
    "F218W": 223,
    "F225W": 237,
    "F275W": 271,
    "F300X": 282,
    "F350LP": 586,
    "F390W": 392,
    "F435W": 433,
    "F475X": 494,
    "F555W": 534,
    "F600LP": 747,
    "F606W": 592,
    "F625W": 631,
    "F775W": 769,
    "F814W": 806,
    "F850LP": 904,
    # WFC3/IR.
    "F098M": 986,
    "F110W": 1153,
    "F140W": 1392,
    "F160W": 1537,
    # NIRCam and NIRISS; both have an F140M of 1405 nm.
    "F115W": 1154,
    "F150W2": 1672,
    "F200W": 1988,
    "F277W": 2776,
    "F322W2": 3247,
    "F444W": 4402,
    # MIRI.
    "F560W": 5635,
    "F770W": 7639,
    "F2100W": 20795,
    "F2550W": 25364,
}

#: Filters of NIRCam and NIRISS with digits that would be nm for the HST.
_NIRCAM = {
    "F210M",
    "F212N",
    "F250M",
    "F300M",
    "F323N",
    "F335M",
    "F356W",
    "F360M",
    "F380M",
    "F405N",
    "F410M",
    "F430M",
    "F460M",
    "F466N",
    "F470N",
    "F480M",
}

# Of two filters in a wheel and a pupil, or of a filter and an open slot, light passes the
# narrower one.
_NARROWNESS = {"N": 0, "M": 1, "W": 2, "X": 3, "": 3, "LP": 4, "W2": 4}

_SPACE_NAME = re.compile(r"(?<![A-Z0-9])F(\d{3,4})(LP|W2|[WMNX])?(?![A-Z0-9])")
_NARROW_NAME = re.compile(r"(?<![A-Z0-9])(?:NB|IB|IA|N|M|J(?=0))[-_ ]?(\d{3,4})(?![A-Z0-9])")


def wavelength(band: str) -> float | None:
    """Return the effective wavelength of a band in nm; None if its name is not known.

    Parameters
    ----------
    band
        Name as headers write it, alone or beside that of its survey or camera: ``"r"``,
        ``"HSC-R2"``, ``"N921"``, ``"F444W"``, ``"ZTF_g"``, ``"W1"``.

    Examples
    --------
    >>> wavelength("LSST_r"), wavelength("HSC-Y"), wavelength("F814W"), wavelength("F444W")
    (622.0, 976.0, 806.0, 4402.0)
    >>> wavelength("NB0921"), wavelength("475.5nm"), wavelength("narrow")
    (921.0, 475.5, None)
    """
    for find in (_number, _space, _narrow, _broad):
        found = find(str(band))
        if found is not None:
            return float(found)
    return None


def _number(band: str) -> float | None:
    """Planes of cubes, which are named by their wavelength with its unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(nm|um)", band)
    return None if found is None else float(found[1]) * {"nm": 1, "um": 1000}[found[2]]


def _space(band: str) -> float | None:
    """Filters of HST, JWST and Roman, which are named by their wavelength."""
    names = _SPACE_NAME.findall(band.upper())
    if not names:
        return None
    digits, kind = min(names, key=lambda one: _NARROWNESS[one[1]])
    name = f"F{digits}{kind}"
    if name in _SPACE:
        return _SPACE[name]
    # Both NIRCam and WFC3/UVIS have an F410M.
    optical = re.search("UVIS|ACS|WFPC", band.upper()) is not None
    infrared = name in _NIRCAM or int(digits) < 200 or len(digits) == 4
    return 10 * int(digits) if infrared and not optical else int(digits)


def _narrow(band: str) -> float | None:
    """Narrow and medium filters of HSC, DECam and others, which are named by their nm."""
    digits = _NARROW_NAME.search(band.upper())
    if digits is None:
        return None
    number = int(digits[1])
    # VISTA's NB118 is at 1180 nm, while HSC writes NB0387; M101 is a galaxy.
    if number < 200 and len(digits[0]) > 4:
        number *= 10
    return number if 300 <= number < 2500 else None


def _broad(band: str) -> float | None:
    """Filters that are named by a letter, beside which others of the camera's may stand."""
    words = re.findall("[a-z0-9]+", band.lower())
    for names, filters in _CAMERAS.items():
        if not set(names).isdisjoint(words):
            found = [filters[word] for word in words if word in filters]
            # HSC-R2 is the second r, and so on.
            found += [filters[word[:-1]] for word in words if word[:-1] in filters]
            if found:
                return found[-1]
    found = [_WORDS[word] for word in words if word in _WORDS]
    if found:
        return found[-1]
    for name in reversed(re.findall("[A-Za-z]+", band)):
        name = name.lower() if name in ("U", "G", "R", "I", "Z") else name
        if name in WAVELENGTHS:
            return WAVELENGTHS[name]
    return None
