"""Debian 13 for Arm, run by QEMU's user emulation: its root file system, and programs in it.

Roots are kept in a folder outside of the repository. `mmdebstrap` only unpacks Debian's packages,
so the kernel needs no `binfmt_misc`; the emulator is called by name, in a changed root.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks._result import ROOT

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nin-edge/arm"
"""Where roots are kept if no other folder is named."""

CORES: Final[Mapping[str, int]] = {
    "cortex-a53": 0xD03,
    "cortex-a72": 0xD08,
    "cortex-a76": 0xD0B,
    "neoverse-n1": 0xD0C,
    "neoverse-n2": 0xD49,
    "max": 0x051,
}
"""64-bit cores by QEMU's name, with their part numbers; QEMU before 8.1 has no Neoverse N2."""

CORE_32: Final = "cortex-a7"
"""The 32-bit core: that of the Raspberry Pi 2."""

WHEELS: Final = ("onnxruntime", "numpy", "pillow", "click")
"""What an arm64 root has from PyPI, in the versions that are installed here."""

_EMULATORS: Final = {"arm64": "qemu-aarch64", "armhf": "qemu-arm"}
_PACKAGES: Final = {
    "arm64": ("python3", "libstdc++6"),
    "armhf": ("python3-onnxruntime", "python3-numpy", "python3-pil", "python3-click"),
}
_PYTHON: Final = "3.13"  # Debian 13's
_PLATFORMS: Final = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
# Debian chooses between BLAS libraries when it configures packages, which nothing does here.
_BLAS: Final = "/usr/lib/arm-linux-gnueabihf/blas:/usr/lib/arm-linux-gnueabihf/lapack"
_VERSIONS: Final = """
import json, platform, numpy, onnxruntime, PIL
print(json.dumps({"Python": platform.python_version(), "ONNX Runtime": onnxruntime.__version__,
                  "NumPy": numpy.__version__, "Pillow": PIL.__version__}))"""


def missing(architecture: str = "arm64", cache: Path = CACHE) -> str | None:
    """Why programs for Arm cannot run here; None if they can.

    Args:
        architecture: `arm64` or `armhf`.
        cache: the folder of the roots; one that is there already needs no mmdebstrap.
    """
    if sys.platform != "linux":
        return "QEMU's user emulation needs Linux"
    name = _EMULATORS[architecture]
    if _emulator(architecture) is None:
        return f"there is no {name}-static (Debian: qemu-user-static)"
    allowed = _changed_root(Path("/"), "true")
    if (
        not shutil.which("unshare")
        or subprocess.run(allowed, stderr=subprocess.DEVNULL, check=False).returncode
    ):
        return "neither root nor user namespaces are available"
    if not root_folder(architecture, cache).is_dir() and shutil.which("mmdebstrap") is None:
        return f"there is no root for {architecture} in {cache}, and no mmdebstrap to make it"
    return None


def _emulator(architecture: str) -> str | None:
    name = _EMULATORS[architecture]
    return shutil.which(f"{name}-static") or shutil.which(name)


def root_folder(architecture: str, cache: Path = CACHE) -> Path:
    """Where a root is, or will be when it is complete; named by what is in it."""
    wheels = WHEELS if architecture == "arm64" else ()
    return cache / "-".join(["debian13", architecture, *(name + version(name) for name in wheels)])


def emulated_cores() -> list[str]:
    """The cores of `CORES` that the installed QEMU has."""
    command = [str(_emulator("arm64")), "-cpu", "help"]  # which is a failure, by its exit code
    known = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return [core for core in CORES if core in known]


def emulator_version() -> str:
    """The version of the installed QEMU."""
    printed = re.search(r"version (\S+)", _output([str(_emulator("arm64")), "--version"]))
    assert printed is not None
    return printed[1]


@dataclass(frozen=True)
class Guest:
    """A root with the project's wheels, for the programs of one session."""

    architecture: str
    """`arm64` or `armhf`."""
    root: Path
    """The root file system."""
    folder: Path
    """A folder in it for this session's files."""

    def path(self, file: Path) -> str:
        """What programs call a file of `folder`."""
        return f"/{file.relative_to(self.root)}"

    def add(self, file: Path) -> str:
        """Copy a file, and give the name by which programs find it."""
        return self.path(Path(shutil.copy(file, self.folder)))

    def command(self, core: str, *program: str, packages: Sequence[Path] = ()) -> list[str]:
        """The command that runs a program.

        Args:
            core: the processor, by QEMU's name.
            program: the program and its arguments.
            packages: folders of `folder` that Python searches first.
        """
        self._describe(core)
        places = [*packages, self.folder / "project", self.root / "opt/wheels"]
        variables = {
            "PYTHONPATH": ":".join(map(self.path, places)),
            "LD_LIBRARY_PATH": f"{self.path(self.folder)}:{_BLAS}",
            "LC_ALL": "C.UTF-8",
            "NIN_EDGE_THREADS": "1",
        }
        settings = [part for pair in variables.items() for part in ("-E", "=".join(pair))]
        emulator = self.path(self.folder / "emulator")
        return [*_changed_root(self.root, emulator), "-cpu", core, *settings, *program]

    def python(
        self, core: str, *arguments: str, packages: Sequence[Path] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run Python; arguments as of `command`."""
        command = self.command(core, "/usr/bin/python3", *arguments, packages=packages)
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def versions(self, core: str) -> Mapping[str, str]:
        """Versions of Python and its packages, by name."""
        done = self.python(core, "-c", _VERSIONS)
        if done.returncode:
            raise RuntimeError(f"{self.architecture}: {done.stderr}")
        found: dict[str, str] = json.loads(done.stdout)
        return found

    def _describe(self, core: str) -> None:
        """Name the core as Linux does, since QEMU before 8.1 shows nothing to the program."""
        fields = {
            "processor": "0",
            "CPU implementer": "0x41",
            "CPU architecture": "8",
            "CPU variant": "0x0",
            "CPU part": f"{CORES.get(core, 0xC07):#05x}",
            "CPU revision": "0",
        }
        text = "".join(f"{name}\t: {value}\n" for name, value in fields.items())
        (self.root / "proc/cpuinfo").write_text(text)


@contextmanager
def guest(architecture: str, cache: Path = CACHE) -> Iterator[Guest]:
    """A guest, alone in its root; made first if there is none.

    Args:
        architecture: `arm64` or `armhf`.
        cache: the folder of the roots.
    """
    cache.mkdir(parents=True, exist_ok=True)
    root = root_folder(architecture, cache)
    with (cache / f"{architecture}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # What a process left that was killed. Nobody else is here.
        for left in [*cache.glob(f".{architecture}-*"), *(root / "tmp").glob("*")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if not root.is_dir():
            _make(architecture, root)
        with tempfile.TemporaryDirectory(dir=root / "tmp") as folder:
            made = Guest(architecture, root, Path(folder))
            shutil.copy(str(_emulator(architecture)), made.folder / "emulator")
            settings = ("--no-deps", "--no-build-isolation", "--target", made.folder / "project")
            _pip(*settings, ROOT, ROOT / "runtime")
            yield made


def add_wheels(target: Path, *requirements: str) -> Path:
    """Install wheels for a root of arm64 into a folder, and give the folder."""
    platforms = [part for name in _PLATFORMS for part in ("--platform", f"{name}_aarch64")]
    only = ("--no-deps", "--only-binary=:all:", "--python-version", _PYTHON)
    _pip(*only, *platforms, "--target", target, *requirements)
    return target


def _make(architecture: str, root: Path) -> None:
    """Make a root; it has its name only when it is complete."""
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{architecture}-") as part:
        archive, folder = Path(part, "root.tar"), Path(part, "root")
        packages = ",".join(("base-files", *_PACKAGES[architecture]))
        settings = ("--variant=extract", f"--architectures={architecture}", "--include=" + packages)
        _output(["mmdebstrap", *settings, "trixie", str(archive), "http://deb.debian.org/debian"])
        with tarfile.open(archive) as tar:
            tar.extractall(folder, [item for item in tar if not item.isdev()], filter="tar")
        # ONNX Runtime asks these before it looks for instruction sets.
        cpus = folder / "sys/devices/system/cpu"
        cpus.mkdir(parents=True)
        for name in ("possible", "present"):
            (cpus / name).write_text("0\n")
        if architecture == "arm64":
            add_wheels(folder / "opt/wheels", *(f"{name}=={version(name)}" for name in WHEELS))
        folder.rename(root)


def _changed_root(root: Path, *command: str) -> list[str]:
    allowed = ["--map-root-user"] if os.geteuid() else []
    return ["unshare", *allowed, "--root", str(root), *command]


def _pip(*arguments: str | Path) -> None:
    _output([sys.executable, "-m", "pip", "install", "--quiet", *map(str, arguments)])


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
