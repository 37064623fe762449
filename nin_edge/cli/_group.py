"""The group of verbs: which there are, how an error looks, and its exit code.

A verb's module is imported when it is called, and imports what it needs when it runs, so that
`nin-edge run` starts without torch and `nin-edge --help` without NumPy.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import click

from nin_edge._version import __version__
from nin_edge.cli import _signals
from nin_edge.cli._common import EXIT_FAILED, EXIT_GATE, EXIT_PROVIDER, clear_line, printable

_VERBS: Final = (
    *("train", "eval", "export", "run", "score", "verify", "compare", "bench", "info", "web"),
    "doctor",
)

# The modules that each verb imports; a light installation has only those that devices need.
_RUNTIME: Final = ("numpy", "PIL", "onnxruntime")
_TRAIN: Final = ("torch", "safetensors", "numpy", "PIL")
_IMPORTS: Final = {
    "score": (*_RUNTIME, "pyarrow"),
    "train": (*_TRAIN, "matplotlib"),
    "eval": _TRAIN,
    "export": (*_TRAIN, "onnx", "onnxscript", "onnxsim", "onnxruntime", "matplotlib"),
}
_PIP_NAMES: Final = {"PIL": "pillow"}  # packages whose name is not the module's


class _Failure(click.ClickException):
    """An expected error, with its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]


class _OneLine(logging.Formatter):
    """Escapes what is logged: names of files are in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's
        return printable(super().formatMessage(record))


class _Group(click.Group):
    """Loads verbs on demand; turns every expected error into one line and an exit code."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Run as a program, which owns its signals and standard streams."""
        _signals.install()
        for stream in (sys.stdout, sys.stderr):
            # A console of another encoding shows what it lacks as an escape.
            if getattr(stream, "errors", None) == "strict":
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            return super().__call__(*arguments, **settings)
        except SystemExit as end:
            _signals.finish(end.code)
            raise

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
            with suppress(OSError):  # after SIGHUP there is no terminal
                clear_line()
                click.echo("interrupted", err=True)
            raise click.exceptions.Exit(_signals.exit_code()) from None
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
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(levelname)s: %(message)s"))
    if not verbose:
        handler.addFilter(_is_for_users)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])


def _is_for_users(record: logging.LogRecord) -> bool:
    """Whether a log entry helps users: warnings of other libraries are for developers."""
    return record.levelno >= logging.ERROR or record.name.startswith("nin_edge")


def _explain(error: Exception, verb: str) -> str:
    """The one line of an expected error; any other is a bug, and is raised with its traceback."""
    if isinstance(error, ModuleNotFoundError):
        missed, needed = (error.name or "").split(".")[0], _IMPORTS.get(verb, _RUNTIME)
        if verb == "train" and missed not in needed:  # --latency exports networks
            needed = _IMPORTS["export"]
        if missed in needed:
            missing = [_PIP_NAMES.get(name, name) for name in needed if not _installed(name)]
            return f"nin-edge {verb} needs more packages: pip install {' '.join(missing)}"
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
