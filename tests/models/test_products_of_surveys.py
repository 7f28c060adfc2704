"""Every product of a survey opens with right fluxes, bands, positions, noise and masks."""

import dataclasses
import re
import warnings

import numpy as np
import pytest
from astropy.io import fits
from survey_products import scene
from survey_products.layouts import (
    COADD_MEAN,
    MAGGY,
    MAKERS,
    VISIT_MEANS,
    calibrations,
    des_meds,
    hsc,
    photocalib,
    rubin_image_only,
)
from survey_products.measure import measure, nanojanskys

from scorepriors._errors import InputError
from scorepriors._filters import wavelength
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning
from scorepriors.models.data.readers import _product_rules as rules
from scorepriors.models.data.readers._files import open_fits
from scorepriors.models.data.readers._products import ALL_PLANES, PRODUCTS, recognize


def opened(made):
    """The observation of a product's files, as a user reads it, and what was said."""
    files = made.files[0] if len(made.files) == 1 else made.files
    psf = None if made.has_psf else scene.psf_image()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        obs = Observation.read(files, psf, **made.arguments)
    return obs, [one for one in caught if issubclass(one.category, UserWarning)]


@pytest.mark.parametrize("name", MAKERS)
def test_products_open_right(name, tmp_path):
    made = MAKERS[name](tmp_path)
    obs, said = opened(made)
    assert all(issubclass(one.category, FileWarning) for one in said), [
        str(w.message) for w in said
    ]

    assert obs.bands == made.bands
    assert tuple(wavelength(band) for band in obs.bands) == made.wavelengths
    assert (nanojanskys(obs) is not None) == made.calibrated
    found = measure(made, obs)
    assert np.abs(found.ratio - 1).max() < 0.01
    assert (found.wrongly_masked, found.wrongly_used) == (0, 0)
    assert found.num_masked == made.masked.sum()
    assert found.noise == pytest.approx(1, abs=0.02)
    assert found.noise_error < made.noise_error
    assert found.offset < 0.05
    assert (obs.wcs is not None) == made.has_wcs
    assert obs.pixel_scale == pytest.approx(made.pixel_scale, rel=1e-3)


def test_wrong_noise_would_show(tmp_path):
    made = MAKERS["Rubin DP1 visit image"](tmp_path)
    obs, _ = opened(made)
    made.sigma = made.sigma * 1.1
    made.fluxes = made.fluxes * 1.02
    made.masked = np.zeros_like(made.masked)
    found = measure(made, obs)
    assert found.noise_error > 0.05
    assert np.abs(found.ratio - 1).min() > 0.01
    assert found.wrongly_masked == 20


@pytest.mark.parametrize(("source", "width"), [(0, 1.0), (1, 1.1)])
def test_a_coadd_of_cells_gives_the_psf_of_the_cell(source, width, tmp_path):
    made = MAKERS["Rubin DP2 cell coadd"](tmp_path)
    sky = scene.wcs(made.pixel_scale).pixel_to_world(*scene.POSITIONS[source])
    made.arguments = {"position": sky, "size": 13 * made.pixel_scale}
    obs, _ = opened(made)
    expected = scene.psf_image(obs.psfs.shape[-1], width * scene.PSF_SIGMA)
    np.testing.assert_allclose(obs.psfs[0], expected, atol=2e-4)


def test_a_coadd_of_cells_without_its_psf_stays_one(tmp_path):
    made = MAKERS["Rubin DP2 cell coadd"](tmp_path)
    with fits.open(made.files[0]) as hdus:
        fits.HDUList([hdu for hdu in hdus if hdu.name != "PSF"]).writeto(tmp_path / "a.fits")
    made.files, made.has_psf = [tmp_path / "a.fits"], False
    obs, _ = opened(made)
    assert measure(made, obs).wrongly_masked == 0


def hsc_with(tmp_path, cards, tables):
    name = "calexp-HSC-R2-9813-4,4.fits"
    return hsc(tmp_path, name, {"FILTER": "HSC-R2"} | cards, 6, "HSC-R2", 621, tables=tables)


def test_a_card_of_the_zero_point_comes_before_calibrations_of_exposures(tmp_path):
    _, tables = calibrations(VISIT_MEANS[0], VISIT_MEANS)
    made = hsc_with(tmp_path, {"FLUXMAG0": 6.3095734448e10}, tables)
    assert opened(made)[0].zero_point == pytest.approx((27.0,), abs=1e-3)


@pytest.mark.parametrize("lost", ["PHOTOCALIB_ID", "ARCHIVE_INDEX", "row"])
def test_calibrations_that_can_not_be_told_apart_are_refused(lost, tmp_path):
    cards, tables = calibrations(COADD_MEAN, VISIT_MEANS)
    if lost == "PHOTOCALIB_ID":
        cards = {}
    elif lost == "ARCHIVE_INDEX":
        tables = tables[1:]
    else:
        tables[0].data["row0"][-1] = 9
    made = hsc_with(tmp_path, cards, tables)
    with pytest.raises(
        InputError, match=r"has 4 calibrations \(30\.7 to 57\.54 nJy .*--zero-point"
    ):
        opened(made)
    made.arguments = {"zero_point": 27.0}
    assert np.abs(measure(made, opened(made)[0]).ratio - 1).max() < 0.01


def test_calibrations_that_are_all_the_same_need_no_index(tmp_path):
    made = hsc_with(tmp_path, {}, [photocalib(COADD_MEAN, (COADD_MEAN,) * 2)])
    assert opened(made)[0].zero_point == pytest.approx((27.0,), abs=1e-3)


#: Row of the table of products for each file; that of general rules has none.
ROWS = {
    "Rubin DP1 coadd": "Rubin coadd",
    "Rubin cutout with mask and variance": "Rubin coadd",
    "Rubin DP1 visit image": "Rubin visit image",
    "Rubin DP2 visit image": "Rubin DP2 image",
    "HSC PDR2 calexp": "HSC coadd",
    "HSC PDR3 calexp": "HSC coadd",
    "HSC cutout": "HSC coadd",
    "JWST i2d": "JWST mosaic",
    "HST drizzle (HAP)": "HST drizzle",
    "HST drizzle (CANDELS)": "drizzled mosaic",
    "DES MEDS": "MEDS file",
    "Gemini DRAGONS": "Gemini image",
    "CCDData": "CCDData file",
    "CCDData, inverse variance": "CCDData file",
}


@pytest.mark.parametrize("name", MAKERS)
def test_files_are_recognized(name, tmp_path):
    made = MAKERS[name](tmp_path)
    for path in made.files:
        with open_fits(path) as hdus:
            assert recognize(hdus, path).name == ROWS.get(name, name)


@pytest.mark.parametrize(
    ("name", "noise", "kind", "mask"),
    [
        ("Rubin DP1 coadd", None, None, None),
        ("Rubin DP2 visit image", None, None, None),
        ("HSC PDR2 calexp", None, None, None),
        ("Legacy Surveys viewer cutout", None, None, None),
        ("Euclid MER mosaic", "*RMS*", "deviation", "*FLAG*"),
        ("JWST i2d", None, None, None),
        ("HST drizzle (HAP)", None, None, None),
        ("HST drizzle (CANDELS)", "*_wht*", "ivar", None),
        ("DES coadd", None, None, None),
        ("Pan-STARRS stack", "*.wt.*", "variance", "*.mask.*"),
        ("ZTF exposure", None, None, "*msk*"),
        ("ZTF reference", "*unc*", "deviation", None),
        ("SDSS frame", None, None, None),
        ("KiDS coadd", "*_wei*", "ivar", "*_msk*"),
        ("unWISE coadd", "*invvar*", "ivar", None),
        ("AllWISE atlas image", "*-unc-*", "deviation", None),
    ],
)
def test_renamed_files_keep_their_fluxes(name, noise, kind, mask, tmp_path):
    """Files beside a renamed one must be given, but what a count is worth is in its cards."""
    made = MAKERS[name](tmp_path)
    if noise is not None:
        made.arguments |= {"noise": next(tmp_path.glob(noise)), "noise_kind": kind}
    if mask is not None:
        made.arguments |= {"mask": next(tmp_path.glob(mask))}
    (path,) = made.files
    made.files = [path.rename(tmp_path / f"field{path.name[path.name.index('.fits') :]}")]
    obs, _ = opened(made)
    found = measure(made, obs)
    assert nanojanskys(obs) is not None
    assert np.abs(found.ratio - 1).max() < 0.01
    assert found.noise == pytest.approx(1, abs=0.02)
    assert (found.wrongly_masked, found.wrongly_used) == (0, 0)


def test_pointing_at_the_image_leaves_its_scaling(tmp_path):
    made = MAKERS["Pan-STARRS stack"](tmp_path)
    made.arguments = {"hdu": 1}
    obs, _ = opened(made)
    assert np.abs(measure(made, obs).ratio - 1).max() < 0.01


#: What the reader says of a file that bears on the result; of all others nothing.
SENTENCES = {
    "Euclid MER mosaic": ["all its 20 nonzero pixels were masked (bit 2 in 12 pixels, bit 5 in 8"],
    "JWST i2d": ["156 of 2688 pixels have no data (zero in WHT)"],
    "grizli mosaic": [],
    "HST drizzle (HAP)": ["WHT was taken as exposure time, and the noise scaled"],
    "DES MEDS": [
        "12 of 4096 pixels have flags",
        "the object's 2 cutouts the first",
        "by seg_cutouts 1 other",
    ],
    "Pan-STARRS stack": ["4 of 2688 pixels have no data"],
    "ZTF exposure": ["its pixels hold the sky, and its noise was calculated"],
    "ZTF reference": ["12 of 2688 pixels have no data"],
    "SDSS frame": ["its noise was calculated from the gain"],
    "AllWISE atlas image": ["12 of 2688 pixels have no data"],
    "CFHT stack": ["the zero point 30 of the card MAGZP was taken as the AB magnitude"],
    "VISTA or UKIDSS image": ["its zero point of Vega", "12 of 2688 pixels have no data"],
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_bears_on_the_result_is_said(name, tmp_path):
    _, said = opened(MAKERS[name](tmp_path))
    sentences = [str(one.message) for one in said]
    expected = SENTENCES.get(name, [])
    assert len(sentences) == len(expected), sentences
    for part in expected:
        assert any(part in sentence for sentence in sentences), sentences


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "DES MEDS"])
def test_a_cut_is_the_same_part(name, tmp_path):
    made = MAKERS[name](tmp_path)
    whole, _ = opened(made)
    sky = scene.wcs(made.pixel_scale).pixel_to_world(*scene.POSITIONS[1])
    made.arguments |= {"position": sky, "size": 17 * made.pixel_scale}
    part, _ = opened(made)
    row, column = part.corner
    height, width = part.shape
    assert (row, column) != (0, 0)
    assert (height, width) == (17, 17)
    box = (slice(None), slice(row, row + height), slice(column, column + width))
    np.testing.assert_allclose(part.images, whole.images[box], rtol=1e-6)
    # Noise that is scaled to the pixels, or smoothed, knows only those that were read.
    inner = (slice(None), slice(1, -1), slice(1, -1))
    loose = name == "HST drizzle (HAP)"
    np.testing.assert_allclose(
        part.weights[inner], whole.weights[box][inner], rtol=3 if loose else 1e-5
    )
    assert part.bands == whole.bands
    np.testing.assert_allclose(nanojanskys_or_one(part), nanojanskys_or_one(whole))
    back = part.wcs.pixel_to_world(*(scene.POSITIONS[1] - (column, row)))
    assert back.separation(sky).arcsec < 1e-3


def nanojanskys_or_one(obs):
    found = nanojanskys(obs)
    return 1.0 if found is None else found


def rewritten(path, **cards):
    """The same file with other cards in all HDUs that have them; None removes one."""
    with fits.open(path) as hdus:
        for hdu in hdus:
            for card, value in cards.items():
                if card in hdu.header:
                    hdu.header[card] = value
                    if value is None:
                        del hdu.header[card]
        hdus.writeto(path, overwrite=True)


@pytest.mark.parametrize(
    ("name", "cards", "message"),
    [
        ("unWISE coadd", {"BAND": 7}, "the card BAND is 7, but WISE has the bands 1 to 4"),
        ("AllWISE atlas image", {"MAGZP": None}, "the card MAGZP is missing"),
        ("AllWISE atlas image", {"MAGZP": "x"}, "the card MAGZP is 'x'"),
        ("HSC PDR2 calexp", {"FLUXMAG0": -1.0}, "the card FLUXMAG0 is -1, not positive"),
        ("Pan-STARRS stack", {"EXPTIME": 0.0}, "the card EXPTIME is 0, not positive"),
        ("Pan-STARRS stack", {"BSOFTEN": "soft"}, "the card BSOFTEN is 'soft'"),
        ("ZTF exposure", {"GAIN": None}, "the card GAIN is missing"),
        ("SDSS frame", {"CAMCOL": 8}, "an SDSS frame needs its cards FILTER, RUN and CAMCOL"),
        ("SDSS frame", {"FILTER": None}, "an SDSS frame needs its cards FILTER, RUN and CAMCOL"),
        ("grizli mosaic", {"BUNIT": "Jylumps"}, "the card BUNIT is 'Jylumps'"),
        ("grizli mosaic", {"BUNIT": "Jy/beam"}, "is in 10 nJy and the image in Jy / beam"),
        ("ZTF reference", {"MAGZP": 0.0}, "one unit of a pixel has the AB magnitude 0, which is"),
        ("AllWISE atlas image", {"MAGZP": 1e30}, "has the AB magnitude 1e+30, which is not likely"),
        ("HSC cutout", {"FLUXMAG0": True}, "the card FLUXMAG0 is True, but what a count is worth"),
        ("DES coadd", {"MAGZERO": 1e30}, "by the card MAGZERO one unit of a pixel has"),
        ("DES coadd", {"MAGZERO": 0.0}, "by the cards of a DES coadd one unit of a pixel has"),
        ("VISTA or UKIDSS image", {"MAGZPT": 0.0}, "by the card MAGZPT one unit of a pixel has"),
        ("JWST i2d", {"PIXAR_SR": 1e-10}, "the card PIXAR_SR means pixels of 4.73e+03 times"),
        ("HST drizzle (HAP)", {"BUNIT": "lumps"}, "but the unit 'lumps' is not known"),
        ("HST drizzle (HAP)", {"BUNIT": "-1"}, "but the unit '-1' is not known"),
    ],
)
def test_damaged_cards_are_named(name, cards, message, tmp_path):
    made = MAKERS[name](tmp_path)
    for path in made.files:
        rewritten(path, **cards)
    with pytest.raises(InputError, match=re.escape(message)):
        opened(made)


#: Cards on which fluxes, noise or masks depend.
CARDS = (
    "BUNIT",
    "MAGZERO",
    "MAGZP",
    "MAGZPT",
    "EXPTIME",
    "PHOTFLAM",
    "PHOTPLAM",
    "GAIN",
    "READNOI",
)
CARDS += ("FLUXMAG0", "PIXAR_SR", "BSOFTEN", "BOFFSET", "CAMCOL", "FILTER", "BAND", "MP_SAT")
CARDS += ("MSKM0001", "MSKN0001", "ZP", "INSTRUME", "TELESCOP")


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "DES MEDS"])
def test_damaged_cards_give_no_other_number_without_a_word(name, tmp_path):
    made = MAKERS[name](tmp_path)
    _, usual = opened(made)
    path, whole = made.files[0], made.files[0].read_bytes()
    with fits.open(path) as hdus:
        present = [card for card in CARDS if any(card in hdu.header for hdu in hdus)]
    damages = [(card, value) for card in present for value in (None, "x", "", True, 1e30, 0)]
    rng = np.random.default_rng(len(name))
    for choice in rng.choice(len(damages), min(6, len(damages)), replace=False):
        card, value = damages[choice]
        path.write_bytes(whole)
        rewritten(path, **{card: value})
        try:
            obs, said = opened(made)
        except InputError:
            continue
        found = measure(made, obs)
        right = np.abs(found.ratio - 1).max() < 0.01 and abs(found.noise - 1) < 0.02
        right = right and found.wrongly_masked == found.wrongly_used == 0
        more = {str(one.message) for one in said} - {str(one.message) for one in usual}
        assert right or more or nanojanskys(obs) is None, (card, value)


@pytest.mark.parametrize(
    ("name", "cards", "message"),
    [
        ("Rubin DP1 coadd", {"MP_SAT": None}, "bit 1 without a name (12)"),
        ("HSC PDR2 calexp", {"MP_SAT": 0}, "bit 1 without a name (12)"),
        ("Rubin DP2 visit image", {"MSKN0001": "WELL_FULL"}, "WELL_FULL (12)"),
    ],
)
def test_planes_of_unknown_meaning_are_said(name, cards, message, tmp_path):
    made = MAKERS[name](tmp_path)
    rewritten(made.files[0], **cards)
    _, said = opened(made)
    (sentence,) = [str(one.message) for one in said]
    assert message in sentence.partition("these were not: ")[2]


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("Legacy Surveys brick", "-invvar-r.fits.fz"),
        ("Euclid MER mosaic", "_00.00.fits"),
        ("grizli mosaic", "_wht.fits.gz"),
        ("Pan-STARRS stack", ".wt.fits"),
        ("ZTF reference", "unc.fits"),
        ("KiDS coadd", "_wei.fits"),
        ("unWISE coadd", "-invvar-m.fits.gz"),
    ],
)
def test_a_missing_noise_file_is_refused_with_the_mend(name, ending, tmp_path):
    made = MAKERS[name](tmp_path)
    for path in tmp_path.iterdir():
        if path.name.endswith(ending) and path not in made.files:
            path.unlink()
    with pytest.raises(InputError, match=r"no noise extension .*--noise FILE"):
        opened(made)


def test_a_cutout_without_noise_is_refused_with_the_mend(tmp_path):
    with pytest.raises(InputError, match=r"no noise extension .*found PRIMARY, IMAGE; give it"):
        opened(rubin_image_only(tmp_path))


def test_a_zero_point_that_is_given_is_of_the_unit_in_the_file(tmp_path):
    made = MAKERS["KiDS coadd"](tmp_path)
    made.arguments = {"zero_point": 0.0}
    assert np.abs(measure(made, opened(made)[0]).ratio - 1).max() < 0.01
    made.arguments = {"zero_point": -0.1}
    assert measure(made, opened(made)[0]).ratio == pytest.approx(10**0.04, rel=0.01)


@pytest.mark.parametrize(("kind", "power"), [("deviation", 1), ("variance", 2), ("ivar", -2)])
def test_noise_of_any_kind_for_pixels_that_are_scaled(kind, power, tmp_path):
    made = MAKERS["KiDS coadd"](tmp_path)
    sigma = np.where(made.masked, np.inf, made.sigma)[0] / MAGGY
    path = tmp_path / "own.fits"
    fits.PrimaryHDU(sigma**power).writeto(path)
    made.arguments = {"noise": path, "noise_kind": kind}
    found = measure(made, opened(made)[0])
    assert found.noise == pytest.approx(1, abs=0.02)
    assert found.noise_error < 0.01
    assert (found.wrongly_masked, found.wrongly_used) == (0, 0)


def test_older_names_of_kids(tmp_path):
    made = MAKERS["KiDS coadd"](tmp_path)
    names = {"_sci": "", "_wei": ".weight", "_msk": ".flag"}
    for kind, name in names.items():
        path = next(tmp_path.glob(f"*{kind}.fits"))
        path.rename(tmp_path / f"KIDS_150.1_2.2_r{name}.fits")
    (tmp_path / "KIDS_151.1_2.2_r.flag.fits").write_bytes(b"of another tile")
    made.files = [tmp_path / "KIDS_150.1_2.2_r.fits"]
    found = measure(made, opened(made)[0])
    assert np.abs(found.ratio - 1).max() < 0.01
    assert (found.wrongly_masked, found.wrongly_used) == (0, 0)


def test_two_noise_files_are_not_chosen_from(tmp_path):
    made = MAKERS["Euclid MER mosaic"](tmp_path)
    rms = next(tmp_path.glob("*RMS*"))
    (tmp_path / rms.name.replace("-58A1D9", "-0001AA")).write_bytes(rms.read_bytes())
    with pytest.raises(InputError, match=r"both go with EUC_MER_BGSUB.*--noise"):
        opened(made)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "is a MEDS file of 2 objects; choose one with index=0 to 1, or by its id"),
        (2, "has no object 2; choose 0 to 1, or an id"),
        (-1, "has no object -1"),
    ],
)
def test_an_object_of_a_meds_file_must_be_chosen(index, message, tmp_path):
    made = MAKERS["DES MEDS"](tmp_path)
    made.arguments = {"index": index}
    with pytest.raises(InputError, match=message):
        opened(made)


def test_an_object_of_a_meds_file_by_id(tmp_path):
    made = MAKERS["DES MEDS"](tmp_path)
    first, _ = opened(made)
    made.arguments = {"index": 987000002}
    same, _ = opened(made)
    np.testing.assert_array_equal(same.images, first.images)
    np.testing.assert_allclose((same.catalog["x"][0], same.catalog["y"][0]), scene.POSITIONS[1])
    assert same.catalog["id"][0] == 987000002


def test_an_object_of_several_meds_files(tmp_path):
    made = [des_meds(tmp_path, band) for band in "gi"]
    both = dataclasses.replace(made[0], files=[one.files[0] for one in made])
    obs, _ = opened(both)
    assert (obs.bands, obs.name) == (("g", "i"), "DES1000+0209_r2585p01-1")
    assert obs.zero_point == (30.0, 30.0)
    other = des_meds(tmp_path, "r", order=(987000002, 987000001))
    both.files[1] = other.files[0]
    with pytest.raises(InputError, match=r"is 987000001 but that in .* is 987000002; choose it by"):
        opened(both)
    both.files[1] = des_meds(tmp_path, "z", center=(38.6, 33.0)).files[0]
    with pytest.raises(InputError, match=r"is 1\.6 pixels off that of DES1000"):
        opened(both)


def test_options_that_a_meds_file_has_no_use_for(tmp_path):
    made = MAKERS["DES MEDS"](tmp_path)
    made.arguments |= {"zero_point": 27.5, "bands": "DES_i"}
    obs, _ = opened(made)
    assert (obs.bands, obs.zero_point) == (("DES_i",), (27.5,))
    made.arguments |= {"good": 1, "mask": "other.fits"}
    with pytest.raises(InputError, match=r"MEDS file has its own .*; leave out good=, mask="):
        opened(made)


def test_planes_of_visits_do_not_spoil_coadds():
    """Half of a coadd's pixels are a cosmic ray in one of its visits."""
    assert not {"CR", "INTRP", "DETECTED"} & set(rules.RUBIN_COADD_BAD)
    assert {"CR", "INTRP"} < set(rules.RUBIN_VISIT_BAD)


@pytest.mark.parametrize("row", PRODUCTS, ids=lambda row: row.name)
def test_rows_name_planes_that_they_know(row):
    names = [plane for plane in row.bad_planes if plane != ALL_PLANES]
    if row.planes:
        assert set(names) <= set(row.planes)
        assert len(set(row.planes.values())) == len(row.planes)
    assert not {"DETECTED", "SOURCE", "NPRIMARY"} & set(names)


def test_names_of_products_are_unique():
    assert len({row.name for row in PRODUCTS}) == len(PRODUCTS)
