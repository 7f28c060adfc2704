"""``python -m scorepriors.inference.cli``."""

from scorepriors.inference.cli import main

main()
