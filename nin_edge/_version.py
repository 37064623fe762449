"""The version, which the modules of the toolkit need without the package's public names."""

__version__ = "0.1.0"
