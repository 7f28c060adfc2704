"""Models of the noise of an exposure's pixels, one file each."""
