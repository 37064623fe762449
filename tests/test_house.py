"""The house rules that no linter checks: sizes, arrows between packages, cycles, `__init__.py`.

Sources are parsed, never imported, so imports inside functions and under TYPE_CHECKING count, too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent

MODULE_LINES: Final = 400
FUNCTION_LINES: Final = 60  # of code: without docstring, comments and blank lines

CHECKED: Final = ("nin_edge", "export", "runtime", "benchmarks", "tests", "examples")
PACKAGES: Final = {
    "nin_edge": ROOT / "nin_edge",
    "nin_edge_export": ROOT / "export" / "nin_edge_export",
    "nin_edge_runtime": ROOT / "runtime" / "nin_edge_runtime",
}

# cli -> api -> export, training -> predict, data, checkpoint -> network, runtime: a module imports
# from its own level and below. The longest prefix of its name counts.
LEVELS: Final = {
    "nin_edge.cli": 5,
    "nin_edge.__main__": 5,
    "nin_edge.api": 4,
    "nin_edge.training": 3,
    "nin_edge_export": 3,
    "nin_edge": 2,  # predict, data, checkpoint and what they share
    "nin_edge.network": 1,
    "nin_edge.kernels": 1,
    "nin_edge_runtime": 0,
}
APART: Final = ("nin_edge.training", "nin_edge_export")
NOT_ON_DEVICES: Final = ("nin_edge", "nin_edge_export", "torch", "onnx", "click")

LAZY: Final = "nin_edge"  # its __init__ names the public API and imports it when it is asked for
WITH_CODE: Final = (LAZY, "nin_edge.cli")


def sources() -> Iterator[Path]:
    """Every Python file of the project, without what tools left in its folders."""
    for folder in CHECKED:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not {"build", "dist", "__pycache__"} & set(path.relative_to(ROOT).parts):
                yield path


@cache
def lines_of(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def modules() -> Mapping[str, Path]:
    """The modules of the three packages by dotted name; a package stands for its `__init__`."""
    named = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            named[".".join((package, *parts))] = path
    return named


def imports(module: str) -> set[str]:
    """Modules that a module imports anywhere, as `package.module` if that is one of ours."""
    names = set()
    for node in ast.walk(parsed(modules()[module])):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in modules() else node.module)
    return names


def level(module: str) -> int | None:
    """The level of one of our modules; None for others, and for names of the package itself."""
    if module == LAZY:
        return None
    parts = module.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((LEVELS[prefix] for prefix in prefixes if prefix in LEVELS), None)


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def code_lines(path: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body that have code."""
    body = function.body
    if ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    if not body or function.end_lineno is None:
        return 0
    lines = lines_of(path)[body[0].lineno - 1 : function.end_lineno]
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in lines)


def test_no_module_is_too_long() -> None:
    lengths = {path: len(lines_of(path)) for path in sources()}
    too_long = {
        str(path.relative_to(ROOT)): count
        for path, count in lengths.items()
        if count > MODULE_LINES
    }
    assert not too_long


def test_no_function_is_too_long() -> None:
    too_long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": lines
        for path in sources()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno > FUNCTION_LINES  # few are worth a closer look
        and (lines := code_lines(path, node)) > FUNCTION_LINES
    }
    assert not too_long


def test_arrows_between_the_packages_point_one_way() -> None:
    wrong = set()
    for module in modules():
        own = level(module)
        for imported in imports(module):
            theirs = level(imported)
            if own is not None and theirs is not None and theirs > own:
                wrong.add(f"{module} imports {imported}")
    assert not wrong


def test_training_and_export_never_import_each_other() -> None:
    one, another = APART
    wrong = {
        f"{module} imports {imported}"
        for module in modules()
        for imported in imports(module)
        if (inside(module, one) and inside(imported, another))
        or (inside(module, another) and inside(imported, one))
    }
    assert not wrong


def test_the_runtime_imports_nothing_that_devices_lack() -> None:
    wrong = {
        f"{module} imports {imported}"
        for module in modules()
        if inside(module, "nin_edge_runtime")
        for imported in imports(module)
        if any(inside(imported, package) for package in NOT_ON_DEVICES)
    }
    assert not wrong


def test_there_is_no_import_cycle() -> None:
    graph = {module: imports(module) & modules().keys() - {module} for module in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(reversed(error.args[1]))) from None


def test_modules_import_what_every_system_has() -> None:
    """POSIX's and Windows's own modules are imported where they are needed, in functions."""
    own = {"fcntl", "grp", "msvcrt", "pty", "pwd", "resource", "termios", "winreg"}
    wrong = {
        f"{module} imports {name}"
        for module, path in modules().items()
        for node in parsed(path).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in {alias.name for alias in node.names} | {getattr(node, "module", None)}
        if name in own
    }
    assert not wrong


def test_init_files_only_re_export() -> None:
    wrong = []
    for module, path in modules().items():
        if path.name != "__init__.py" or module in WITH_CODE:
            continue
        body = parsed(path).body
        names = {
            target.id
            for node in body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        allowed = ast.Import | ast.ImportFrom | ast.Assign | ast.Expr
        if not all(isinstance(node, allowed) for node in body):
            wrong.append(f"{module} has code")
        elif not names <= {"__all__", "__version__"}:
            wrong.append(f"{module} assigns {', '.join(sorted(names))}")
        elif "__all__" not in names and any(
            isinstance(node, ast.ImportFrom) and node.module != "__future__" for node in body
        ):
            wrong.append(f"{module} re-exports without __all__")
    assert not wrong
