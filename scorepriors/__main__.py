"""``python -m scorepriors``: the command line."""

from scorepriors.inference.cli import main

if __name__ == "__main__":
    main(prog_name="scorepriors")
