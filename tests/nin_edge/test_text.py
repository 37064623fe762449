from __future__ import annotations

import pytest

from nin_edge.text import list_some, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, été 猫", "plain, été 猫"),
        ("a\x1b[2J\nb", r"a\x1b[2J\nb"),
        ("\udcff", r"\udcff"),  # a byte of a file's name that is not UTF-8
        ("\u202e", r"\u202e"),  # would turn the line round
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_long_list_is_cut_short() -> None:
    assert list_some(["a", "b"]) == "a, b"
    assert list_some(list("abcd"), limit=2) == "a, b and 2 more"
    assert list_some([]) == ""
