"""From boxes of pixels to images: kernels, convolution, other pixel grids."""
