"""``python -m scorepriors.inference.cli``."""

from . import main

main()
