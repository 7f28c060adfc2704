"""Readers of observations: FITS files, npz archives and astropy's NDData.

**FITS, one file for all bands.**  HDUs are found by name (EXTNAME), in any order:

- ``IMAGE`` (or ``SCI``, or the primary HDU): pixels ``[B, H, W]``, or ``[H, W]`` for
  one band.  Cards, looked for here and then in the primary header: ``BANDS = 'u,g,r,i'``
  or ``BAND1`` to ``BANDn``; ``BUNIT``; ``MAGZERO`` (AB magnitude of one image unit, all
  bands) or ``MAGZERO1`` to ``MAGZEROn``; a celestial WCS on the first two axes, or
  ``PIXSCALE`` (arcsec per pixel).
- one of ``VARIANCE``, ``STD`` (or ``ERR``; standard deviations), ``IVAR`` or ``WEIGHT``
  (or ``WHT``; inverse variances), shaped like the image.  Of several the first in this
  order is taken.  Weight zero and infinite variance mean masked.
- optional ``MASK``, ``[B, H, W]`` or ``[H, W]``: nonzero means masked.  A mask with
  values other than 0 and 1 is a bit mask, see `scorepriors.models.data.readers._masks.masked_pixels`.
- ``PSF``: ``[B, P, P]``, or ``[P, P]`` for all bands; or ``PSF_<band>`` for each; or in files
  of their own, see `scorepriors.models.data.psfs`.
- optional table ``CATALOG`` with positions of sources.

**FITS, one file per band.**  The same with 2-D images.  The band is the ``FILTER`` or
``BAND`` card or the file's name without its ending.  Shapes and WCS must agree.

**npz.**  ``images [B, H, W]``, ``variance`` or ``weights``, ``psfs``, ``bands`` (or
``filters``), and optionally ``mask``, ``zero_point``, ``unit``, ``scale`` (arcsec per pixel)
and ``catalog``, a structured array with x and y.  A set of blends has ``images [N, B, H, W]``, ``psfs``,
``skyvar [N, B]``, ``gain [B]``, ``src_start``, ``centers`` in **(row, column)** order
and ``meta`` (JSON with ``zp`` and ``scale``); the reader takes one of its blends.

Everything returned is a dictionary of arguments of ``Observation.from_arrays``.
"""
