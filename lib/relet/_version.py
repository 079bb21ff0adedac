"""The version, in one place: the package, the build and ``--version`` read it from here."""

__version__ = "0.1.0"
AGENT = f"relet/{__version__}"
"""What relet's own peers call themselves."""
