"""Keeps ONNX Runtime's native lines off stderr while its package is imported.

Some releases (1.23 and 1.26 among them) warn on import where the graphics card is no PCI device, as
on a Raspberry Pi, and no setting stops them. The library leaves a program's stderr alone; the
command line owns its process and may look through what is written there.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_STDERR: Final = 2
_MARK: Final = b":onnxruntime:"  # in every native line: "[W:onnxruntime:Default, device_disc ..."


def hide_import_lines() -> None:
    """From now on, importing ONNX Runtime writes none of its native lines to stderr."""
    known = "onnxruntime" in sys.modules or any(isinstance(one, _Finder) for one in sys.meta_path)
    if hasattr(os, "memfd_create") and not known:  # Linux, where those warnings are
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds `onnxruntime` as it would be found otherwise, and loads it quietly."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "onnxruntime":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    _load_quietly(spec.loader)
                return spec
        return None


def _load_quietly(loader: object) -> None:
    load = loader.exec_module  # type: ignore[attr-defined]

    def quietly(module: ModuleType) -> None:
        with _native_lines_dropped():
            load(module)

    loader.exec_module = quietly  # type: ignore[attr-defined]


@contextmanager
def _native_lines_dropped() -> Iterator[None]:
    """Hold back what is written to stderr, and pass on what is not ONNX Runtime's own."""
    try:
        stderr = os.dup(_STDERR)
    except OSError:  # closed, as under a service manager
        yield
        return
    held = os.memfd_create("stderr")
    os.dup2(held, _STDERR)
    try:
        yield
    finally:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(stderr, _STDERR)
        os.close(stderr)
        os.lseek(held, 0, os.SEEK_SET)
        with os.fdopen(held, "rb") as lines:
            kept = [line for line in lines if _MARK not in line]
        if any(line.strip(b"\x1b[m\r\n") for line in kept):
            os.write(_STDERR, b"".join(kept))
