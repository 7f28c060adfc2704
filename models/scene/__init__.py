"""A scene as a value, and the NumPyro model of it."""
