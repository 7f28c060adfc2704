"""A cutout of a tile-compressed image of 20,000 x 20,000 pixels: seconds, and peak memory.

    pytest benchmarks/test_cutouts.py --benchmark-enable -s

Image, variance and mask are compressed as archives do it.  Memory is that of a fresh process that
imports the reader and reads one cutout, above what it has after the imports.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from scorepriors.models import Observation

SIDE = 20_000
PLACE, SIZE = (150.3, 2.3), 40.0

#: What a fresh process prints: megabytes after the imports, and at the peak.
PROGRAM = """
import json, re, sys
from pathlib import Path
from scorepriors.models import Observation

def peak():
    # Of this program alone: `getrusage` counts that of the process that started it too.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status).group(1)) / 1024

before = peak()
obs = Observation.read(sys.argv[1], position=(150.3, 2.3), size=40.0)
print(json.dumps([before, peak(), obs.shape]))
"""


@pytest.fixture(scope="session")
def mosaic(tmp_path_factory):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [SIDE / 2 + 0.5] * 2
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    header = wcs.to_header()
    header.update({"BUNIT": "nJy", "FILTER": "r"})
    image = np.empty((SIDE, SIDE), np.float32)
    image[:] = np.random.default_rng(0).normal(size=(100, SIDE)).repeat(SIDE // 100, axis=0)
    path = tmp_path_factory.mktemp("mosaic") / "mosaic.fits.fz"
    hdus = fits.HDUList([fits.PrimaryHDU()])
    pack = {"compression_type": "RICE_1", "quantize_level": 16}
    hdus.append(fits.CompImageHDU(image, header, name="IMAGE", **pack))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    hdus.append(fits.CompImageHDU(mask, name="MASK", compression_type="RICE_1"))
    image[:] = 1
    hdus.append(fits.CompImageHDU(image, name="VARIANCE", **pack))
    profile = np.exp(-(np.arange(-10, 11) ** 2) / 8.0)
    profile /= profile.sum()
    hdus.append(fits.ImageHDU(np.outer(profile, profile), name="PSF"))
    hdus.writeto(path)
    return path


def test_cutout(benchmark, mosaic):
    obs = benchmark(lambda: Observation.read(mosaic, position=PLACE, size=SIZE))
    assert obs.shape == (200, 200)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(mosaic)], capture_output=True, text=True, check=True
    )
    before, peak, shape = json.loads(run.stdout)
    assert shape == [200, 200]
    benchmark.extra_info["megabytes"] = peak - before
    print(f"\n{peak - before:.0f} MB for the cutout, {peak:.0f} MB in all")
    assert benchmark.stats["median"] < 1
    assert peak - before < 200
