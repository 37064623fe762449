"""The provider policy with the real package for CUDA, in an environment of its own, without CUDA.

`onnxruntime-gpu` imports and runs on any x86-64 machine. It lists CUDA as available and then gives
a session on the CPU, without an exception. Where there is a GPU, it is hidden from these tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import requires
from pathlib import Path

import pytest

from .conftest import PIP_OPTIONS, Environment

GPU_RELEASE = "1.31.1"
"""The newest release of `onnxruntime-gpu` that was tested."""

DOWNLOAD_SECONDS = 180
"""Time for its wheel of 256 MB, which comes from pip's cache where it was installed before."""

NATIVE = ":onnxruntime:"  # in each line that ONNX Runtime prints by itself
WARNING = "CUDA could not be started, running on the CPU"

pytestmark = pytest.mark.slow

Runner = Callable[..., subprocess.CompletedProcess[str]]


def _runner(python: Path, folder: Path) -> Runner:
    """Runs `nin-edge ARGUMENTS`, or a script, in an environment and without a GPU."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONPATH" and not name.startswith("NIN_EDGE_")
    }

    def run(
        *arguments: object, script: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        command = [python, "-c", script] if script else [python.parent / "nin-edge"]
        return subprocess.run(
            [*command, *map(str, arguments)],
            cwd=folder,
            env={**clean, "CUDA_VISIBLE_DEVICES": "-1", **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def environment(
    wheels: Mapping[str, Path], make_environment: Callable[[str], Environment]
) -> Environment:
    """An environment with both wheels and no ONNX Runtime, but what it needs."""
    environment = make_environment("gpu")
    environment.install(*wheels.values())
    needed = [
        requirement for requirement in requires("onnxruntime") or () if ";" not in requirement
    ]
    environment.link([*needed, "pip"])
    return environment


@pytest.fixture(scope="module")
def bare(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Runs commands there, as long as no test has asked for `gpu`."""
    return _runner(environment.python, tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def gpu(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Runs commands there with `onnxruntime-gpu` installed; skipped where it cannot be had."""
    package = f"onnxruntime-gpu=={GPU_RELEASE}"
    try:
        done = _pip(environment.python, "install", package, timeout=DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{package} was not there within {DOWNLOAD_SECONDS} s")
    if done.returncode != 0:
        last = next(iter(reversed(done.stderr.strip().splitlines())), "")
        pytest.skip(f"{package} cannot be installed here: {last}")
    yield _runner(environment.python, tmp_path_factory.mktemp("gpu"))
    # It takes 350 MB, which pytest would keep for three more runs.
    shutil.rmtree(environment.packages / "onnxruntime", ignore_errors=True)


def _pip(
    python: Path, verb: str, *arguments: str, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run an environment's own pip, as a user does."""
    return subprocess.run(
        [python, "-m", "pip", verb, "--quiet", *arguments],
        env=os.environ | PIP_OPTIONS,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _only_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


def test_without_any_onnx_runtime_the_doctor_says_what_to_install(bare: Runner) -> None:
    found = bare("doctor")
    assert found.returncode == 1
    assert found.stderr == ""
    assert "ONNX Runtime is not installed" in found.stdout
    assert "-m pip install onnxruntime" in found.stdout


def test_the_package_lists_cuda(gpu: Runner) -> None:
    script = "import onnxruntime; print(onnxruntime.get_available_providers())"
    assert "CUDAExecutionProvider" in gpu(script=script).stdout


@pytest.mark.parametrize("by_variable", [False, True])
def test_the_library_refuses_cuda_that_is_asked_for(gpu: Runner, by_variable: bool) -> None:
    script = (
        "import sys\n"
        "from nin_edge_runtime import Classifier, ProviderError\n"
        "try:\n"
        "    Classifier(provider=sys.argv[1])\n"
        "except ProviderError as error:\n"
        "    print(error)\n"
    )
    if by_variable:
        done = gpu("auto", script=script, NIN_EDGE_PROVIDER="cuda")
    else:
        done = gpu("cuda", script=script)
    assert _only_line(done.stdout).startswith("provider cuda: ONNX Runtime could not start it")
    assert done.stderr == ""


def test_the_library_takes_the_cpu_by_itself_and_says_so_once(gpu: Runner, photo: Path) -> None:
    script = (
        "import sys\n"
        "from nin_edge_runtime import Classifier\n"
        "classify = Classifier()\n"
        "print(classify.provider, classify(sys.argv[1]).label)\n"
    )
    done = gpu(photo, script=script)
    assert done.stdout.split() == ["cpu", "cat"]
    assert _only_line(done.stderr).startswith(WARNING)


def test_run_with_cuda_is_one_line_and_code_4(gpu: Runner, photo: Path) -> None:
    done = gpu("run", photo, "--provider", "cuda")
    assert done.returncode == 4
    assert done.stdout == ""
    assert _only_line(done.stderr).startswith("Error: provider cuda: ")


def test_run_by_itself_answers_with_one_warning(gpu: Runner, photo: Path) -> None:
    done = gpu("run", photo)
    assert done.returncode == 0
    assert done.stdout.split()[1] == "cat"
    assert _only_line(done.stderr).startswith(f"WARNING: {WARNING}")


@pytest.mark.parametrize("by_variable", [False, True])
def test_run_on_the_cpu_is_silent(gpu: Runner, photo: Path, by_variable: bool) -> None:
    if by_variable:
        done = gpu("run", photo, NIN_EDGE_PROVIDER="cpu")
    else:
        done = gpu("run", photo, "--provider", "cpu")
    assert done.returncode == 0
    assert done.stderr == ""


def test_verbose_shows_the_native_lines(gpu: Runner, photo: Path) -> None:
    done = gpu("--verbose", "run", photo)
    assert done.returncode == 0
    assert NATIVE in done.stderr
    assert done.stdout.split()[1] == "cat"
    assert len(done.stdout.splitlines()) == 1


def test_doctor_says_why_cuda_does_not_start(gpu: Runner) -> None:
    done = gpu("doctor", "--json")
    assert done.returncode == 1
    assert done.stderr == ""
    found = json.loads(done.stdout)
    cpu, cuda = found["providers"]
    assert cpu["works"] is True
    assert (cuda["included"], cuda["works"]) == (True, False)
    assert found["onnxruntime_packages"] == {"onnxruntime-gpu": GPU_RELEASE}
    (problem,) = found["problems"]
    assert problem["what"].startswith("provider cuda: ONNX Runtime has it but it does not start")
    assert "nin-edge doctor" not in problem["what"]  # the reason itself, not a hint to ask for it


def test_doctor_is_content_where_the_cpu_is_meant(gpu: Runner) -> None:
    done = gpu("doctor", NIN_EDGE_PROVIDER="cpu")
    assert done.returncode == 0, done.stdout


# The last one, since it changes the environment.
def test_doctor_names_the_conflict_and_its_command_fixes_it(
    gpu: Runner, environment: Environment, photo: Path
) -> None:
    assert _pip(environment.python, "install", "onnxruntime").returncode == 0
    done = gpu("doctor", "--json")
    assert done.returncode == 1
    problem = json.loads(done.stdout)["problems"][0]
    assert "both installed" in problem["what"]
    assert f"onnxruntime-gpu {GPU_RELEASE}" in problem["what"]

    assert _pip(environment.python, "uninstall", "-y", "onnxruntime").returncode == 0
    halved = gpu("run", photo)
    assert halved.returncode == 1
    assert "files are missing" in _only_line(halved.stderr)
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("an NVIDIA driver is here: gigabytes of CUDA's libraries would fix it")

    fix = json.loads(gpu("doctor", "--json").stdout)["problems"][0]["fix"]
    done = subprocess.run(
        fix,
        shell=True,
        env=os.environ | PIP_OPTIONS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    fixed = gpu("doctor")
    assert fixed.returncode == 0, fixed.stdout
    assert gpu("run", photo).stdout.split()[1] == "cat"
