"""A command whose help lists its options in named groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


class GroupedCommand(click.Command):
    """A command with a heading for each group of options."""

    def __init__(
        self, *arguments: Any, groups: Mapping[str, Sequence[str]] | None = None, **settings: Any
    ) -> None:
        """Make a command.

        Args:
            arguments: arguments of `click.Command`.
            groups: names of the options in each group, by its heading; others are in `Options`.
            settings: keyword arguments of `click.Command`.
        """
        super().__init__(*arguments, **settings)
        self._groups = groups or {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        records = {
            name: record
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option)
            and (record := parameter.get_help_record(ctx)) is not None
            for name in parameter.opts
        }
        for heading, names in self._groups.items():
            with formatter.section(heading):
                formatter.write_dl([records[name] for name in names])
        grouped = [records[name] for names in self._groups.values() for name in names]
        rest = [record for record in dict.fromkeys(records.values()) if record not in grouped]
        with formatter.section("Options"):
            formatter.write_dl(rest)
