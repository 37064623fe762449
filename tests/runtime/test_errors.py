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
