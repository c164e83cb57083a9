"""`python -m medseg` is the `medseg` command."""

from medseg.cli import main

if __name__ == "__main__":
    main(prog_name="medseg")
