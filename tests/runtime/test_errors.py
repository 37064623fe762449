from __future__ import annotations

import pytest

from nin_edge_runtime import errors


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ModelFileError", ValueError),
        ("ImageError", ValueError),
        ("ProviderError", RuntimeError),
        ("MissingDependencyError", ImportError),
        ("GateError", Exception),
    ],
)
def test_each_error_is_ours_and_the_matching_builtin(name: str, builtin: type) -> None:
    error = getattr(errors, name)
    assert issubclass(error, errors.NinEdgeError)
    assert issubclass(error, builtin)
    assert str(error("photo.jpg: no such file")) == "photo.jpg: no such file"


@pytest.mark.parametrize(
    "text", ["\x1b]0;evil\x07", "a\nERROR: b", "\u202egnp.exe", "\udcff", "\x9b2J"]
)
def test_a_message_is_one_line_without_control_characters(text: str) -> None:
    message = str(errors.ImageError(f"{text}: no such file"))
    assert message.isprintable()
    assert message.endswith(": no such file")
    assert errors.ImageError(text).args == (text,)


@pytest.mark.parametrize("length", [2_001, 3_000_000])
def test_a_message_that_quotes_much_is_short(length: int) -> None:
    message = str(errors.ModelFileError("a.onnx: " + "x" * length + ": expected less"))
    assert len(message) < 2_100
    assert message.startswith("a.onnx: xxx")
    assert message.endswith(": expected less")
    assert f"{length + 23 - 2_000:,} characters" in message
