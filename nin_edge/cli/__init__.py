"""The `nin-edge` command: one thin module a verb, which parses, calls the library and prints."""

from nin_edge.cli._group import main

__all__ = ["main"]
