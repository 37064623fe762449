from __future__ import annotations

import platform
from pathlib import Path

import pytest

from nin_edge_runtime.cpu import cpu_features, cpu_flags, instruction_sets, processor_name

# Lines as the kernel writes them, shortened to what is looked at and some of its neighbours.
X86_AVX2 = """processor\t: 0
model name\t: Intel(R) Core(TM) i5-6500 CPU @ 3.20GHz
flags\t\t: fpu sse4_2 avx f16c avx2 bmi2
vmx flags\t: vnmi avx512_vnni

processor\t: 1
model name\t: Intel(R) Core(TM) i5-6500 CPU @ 3.20GHz
flags\t\t: fpu sse4_2 avx f16c avx2 bmi2
"""
X86_AMX = "model name\t: Intel(R) Xeon(R)\nflags\t\t: avx2 avx512f avx512_vnni amx_tile amx_int8\n"
X86_OLD = "model name\t: Intel(R) Atom(TM)\nflags\t\t: fpu sse2 ssse3\n"
PI_4 = (
    "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n\n"
    "Model\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
)
PI_5 = (
    "processor\t: 0\nFeatures\t: fp asimd evtstrm aes atomics asimdhp asimddp\n\n"
    "Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
)
# A thread may run on either kind of core.
UNEQUAL_CORES = "Features\t: fp asimd asimddp i8mm\nFeatures\t: fp asimd asimddp\n"


@pytest.mark.parametrize(
    ("text", "architecture", "has", "lacks", "int8"),
    [
        (X86_AVX2, "x86_64", {"AVX2"}, {"AVX-512 VNNI", "AVX-VNNI", "AMX int8"}, "no dot-product"),
        (X86_AMX, "x86_64", {"AVX2", "AVX-512 VNNI", "AMX int8"}, {"AVX-VNNI"}, "has dot-product"),
        (X86_OLD, "x86_64", set(), {"AVX2", "AVX-512 VNNI", "AVX-VNNI", "AMX int8"}, "no AVX2"),
        (PI_4, "aarch64", set(), {"dot product", "i8mm"}, "no dot-product"),
        (PI_5, "aarch64", {"dot product"}, {"i8mm"}, "has dot-product"),
        (UNEQUAL_CORES, "aarch64", {"dot product"}, {"i8mm"}, "has dot-product"),
    ],
)
def test_instructions_that_matter_are_found(
    tmp_path: Path, text: str, architecture: str, has: set[str], lacks: set[str], int8: str
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text, "utf-8")
    found = cpu_features(path, architecture)
    assert found.architecture == architecture
    assert found.features is not None
    assert {name for name, there in found.features.items() if there} == has
    assert {name for name, there in found.features.items() if not there} == lacks
    assert found.int8.startswith(int8)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        (X86_AVX2, "Intel(R) Core(TM) i5-6500 CPU @ 3.20GHz"),
        (PI_4, "Raspberry Pi 4 Model B Rev 1.4"),
    ],
)
def test_name_of_the_processor_is_found(tmp_path: Path, text: str, model: str) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text, "utf-8")
    assert cpu_features(path).model == model


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (X86_AVX2, ["avx2"]),
        (X86_AMX, ["avx2", "avx512f", "avx512_vnni", "amx_int8"]),
        (X86_OLD, []),
        (PI_5, ["asimd", "asimddp"]),
        (UNEQUAL_CORES, ["asimd", "asimddp", "i8mm"]),  # of the first core
        ("isa\t: rv64imafdc\n", []),
        (None, []),
    ],
)
def test_instruction_sets_follow_the_architecture_in_one_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, words: list[str]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "here")
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text, "utf-8")
    assert instruction_sets(path) == " ".join(["here", *words])


def test_flags_are_those_of_every_core(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(UNEQUAL_CORES, "utf-8")
    assert cpu_flags(path) == {"fp", "asimd", "asimddp"}
    assert cpu_flags(tmp_path / "none") == frozenset()


@pytest.mark.parametrize("text", [None, "", "isa\t: rv64imafdc\n"])
def test_elsewhere_they_are_unknown(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text, "utf-8")
    found = cpu_features(path, "riscv64")
    assert found.features is None
    assert found.model is None
    assert found.int8.startswith("unknown")


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo here")
def test_this_machine_is_known() -> None:
    found = cpu_features()
    assert found.architecture == platform.machine()
    assert processor_name()
    if found.architecture in ("x86_64", "aarch64"):
        assert found.features
