"""Readers of observations: FITS files, npz archives and astropy's NDData.

**FITS, products of surveys.**  `_products.PRODUCTS` has one row each: how a file is recognized,
and what differs from the general rules, which follow.

**FITS, one file for all bands.**  HDUs are found by name (EXTNAME), in any order; ``hdu`` points at
the image where names don't tell:

- ``IMAGE`` (or ``SCI``, or the primary HDU): pixels ``[B, H, W]``, or ``[H, W]`` for
  one band; or ``SCI,1``, ``SCI,2`` ..., ``SCI_G``, ``SCI_R`` ... for several.  Cards, looked for
  here and then in the primary header: ``BANDS = 'u,g,r,i'`` or ``BAND1`` to ``BANDn``, or those of a
  filter; ``BUNIT``; ``MAGZERO`` (AB magnitude of one image unit, all bands) or ``MAGZERO1`` to
  ``MAGZEROn``, and what others write for it (`_cards`); a celestial WCS on the first two axes, or
  ``PIXSCALE`` (arcsec per pixel).
- a noise, shaped like the image, by the first of the names in `_names.NOISE_NAMES`:
  ``VARIANCE``, ``ERR`` ..., ``IVAR``, ``WHT``.  Or in a file of its own.  Pixels without data
  are masked and counted; weights that are exposure times are scaled to the scatter of the pixels.
- optional mask by the first of `_names.MASK_NAMES`, ``[B, H, W]`` or ``[H, W]``: nonzero means
  masked.  A mask with values other than 0 and 1 is a bit mask, see `_masks.masked_pixels`.
  Or in a file of its own.
- ``PSF``: ``[B, P, P]``, or ``[P, P]`` for all bands; or ``PSF_<band>`` for each; or in files
  of their own, see `scorepriors.models.data.psfs`.
- optional ``FINE_SAMPLES``, ``[B, Q, Q]``: the same PSFs at four places per pixel, beside ``PSF``.
- optional ``CORRELATION``, ``[B, k, k]``: correlations of the noise of pixels by their distance; or
  images ``NOISE_REALIZATIONS/0``, ... of one band, from which they are measured.
- optional table ``CATALOG`` with positions of sources.

**FITS, one file per band.**  The same with 2-D images.  The band is the ``FILTER`` or
``BAND`` card or the file's name without its ending.  Shapes and WCS must agree.

**npz.**  ``images [B, H, W]``, ``variance`` or ``weights``, ``psfs``, ``bands`` (or
``filters``), and optionally ``mask``, ``zero_point``, ``unit``, ``scale`` (arcsec per pixel),
``correlation`` and ``catalog``, a structured array with x and y.  A set of blends has ``images [N, B, H, W]``, ``psfs``,
``skyvar [N, B]``, ``gain [B]``, ``src_start``, ``centers`` in **(row, column)** order
and ``meta`` (JSON with ``zp`` and ``scale``); the reader takes one of its blends.

Everything returned is a dictionary of arguments of ``Observation.from_arrays``.
"""
