"""The `nin-edge` command: a group whose verbs parse, call the library and print.

A verb's module is imported when it is called, and imports what it needs when it runs, so that
`nin-edge run` starts without torch and `nin-edge --help` without NumPy. This module decides what an
error looks like and its exit code.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click

from nin_edge import __version__
from nin_edge.text import printable as printable

EXIT_FAILED: Final = 1
EXIT_GATE: Final = 3
"""A parity or accuracy gate failed."""
EXIT_PROVIDER: Final = 4
"""The requested execution provider is not active."""
EXIT_INTERRUPTED: Final = 130

_VERBS: Final = ("train", "eval", "export", "run", "verify", "bench", "info", "doctor")

# What each verb imports; a light installation has no more than devices need.
_RUNTIME: Final = ("numpy", "PIL", "onnxruntime")
_TRAIN: Final = ("torch", "safetensors", "numpy", "PIL")
_IMPORTS: Final = {
    "train": (*_TRAIN, "matplotlib"),
    "eval": _TRAIN,
    "export": (*_TRAIN, "onnx", "onnxscript", "onnxsim", "onnxruntime", "matplotlib"),
}
_PIP_NAMES: Final = {"PIL": "pillow"}  # where pip calls it otherwise


class _Failure(click.ClickException):
    """An expected error, with the exit code that tells its kind."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]


class _Group(click.Group):
    """Verbs loaded on demand; every expected error as one line and its exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = import_module(f"nin_edge.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except (KeyboardInterrupt, click.Abort):
            clear_line()
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
        except Exception as error:
            logging.getLogger(__name__).info("the error came from here", exc_info=True)
            message = _explain(error, ctx.invoked_subcommand or "")
            clear_line()
            raise _Failure(printable(message), _exit_code(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nin-edge")
@click.option(
    "-v", "--verbose", is_flag=True, help="Print what the library logs, and tracebacks of errors."
)
def main(verbose: bool) -> None:
    """Train a Network-in-Network classifier, export it to one ONNX file, run it on a device."""
    # A service manager's way to stop is handled like Ctrl-C: nothing is left half-written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s: %(message)s"
    )
    if not verbose:
        from nin_edge.cli._native import hide_import_lines

        hide_import_lines()


def _explain(error: Exception, verb: str) -> str:
    """An expected error's one line; anything else is a defect and goes up with its traceback."""
    if isinstance(error, ModuleNotFoundError):
        needed = _IMPORTS.get(verb, _RUNTIME)
        if (error.name or "").split(".")[0] in needed:
            missing = [_PIP_NAMES.get(name, name) for name in needed if not _installed(name)]
            return f"nin-edge {verb} needs what is not installed: pip install {' '.join(missing)}"
    from nin_edge_runtime.errors import NinEdgeError

    if isinstance(error, NinEdgeError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    raise error


def _installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


def _exit_code(error: Exception) -> int:
    if isinstance(error, ModuleNotFoundError):  # without NumPy, there is no runtime to ask
        return EXIT_FAILED
    from nin_edge_runtime.errors import GateError, ProviderError

    if isinstance(error, GateError):
        return EXIT_GATE
    return EXIT_PROVIDER if isinstance(error, ProviderError) else EXIT_FAILED


def on_terminal() -> bool:
    """Whether stderr is a terminal: progress is redrawn there, and left out elsewhere."""
    return sys.stderr is not None and sys.stderr.isatty()


def clear_line() -> None:
    """Take away a line of progress that is still on the terminal."""
    if on_terminal():
        click.echo("\r\033[K", nl=False, err=True)


def shell_quoted(path: Path) -> str:
    """A path as it can be pasted into a shell, and cannot act on the terminal."""
    import shlex

    return printable(shlex.quote(f"./{path}" if str(path).startswith("-") else str(path)))


class _PathType(click.Path):
    """A path; an empty name, from an unset shell variable, is not the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty name."""
        if not os.fspath(value):
            self.fail("the name is empty, expected a path", param, ctx)
        return super().convert(value, param, ctx)


class NumberRange(click.FloatRange):
    """A range of numbers; `nan` is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is no number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


PATH: Final = _PathType(path_type=Path)

model_option = click.option(
    "--model",
    type=PATH,
    help="Model file; the one that ships with the runtime if not given.",
)
provider_option = click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes CUDA where it really starts.",
)
