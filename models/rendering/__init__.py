"""Rendering of boxes of pixels into images: kernels, convolution, other pixel grids."""
