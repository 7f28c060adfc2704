"""``python -m scorepriors``: the command line."""

if __name__ == "__main__":
    from scorepriors.inference.cli import main

    main(prog_name="scorepriors")
