"""PSFs as they come: images, models and grids, evaluated at the place of a scene.

What is understood, by content rather than by the name of a file:

- **images** ``[P, P]`` or ``[B, P, P]`` in FITS, npz and npy files: one file for each band, one
  HDU for each band (cards ``BAND`` or ``FILTER``, or names such as ``PSF_G``) or a cube;
- **oversampled images**: cards ``OVERSAMP``, ``PIXELSCL``, ``PIXSCALE``, or a WCS are compared
  with the image's pixels; STPSF's (WebbPSF's) files of four HDUs are read from the oversampled
  one.  They are integrated over the pixels of the image;
- **PSFEx** files, evaluated as polynomials;
- **Piff** files and objects, with the package ``piff``;
- **grids**: photutils' ``GriddedPSFModel`` (``DET_YX`` cards), STDPSF, Euclid's mosaics of
  stamps, and the cells of Rubin's coadds.

A PSF belongs to the center of the observation.  Whatever is not centered on a pixel is moved
there, so that positions are those of the centroid of a star.
"""
