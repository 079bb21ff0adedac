"""`python -m relet`: the command line `relet`, where it is not on the path."""

from relet.cli.admin import run

if __name__ == "__main__":
    run()
