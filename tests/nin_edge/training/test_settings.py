from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from nin_edge.network import NetworkConfig
from nin_edge.training.errors import SettingError
from nin_edge.training.recipe import RANGES, Recipe
from nin_edge.training.settings import (
    NETWORK_NAMES,
    RECIPE_NAMES,
    TYPES,
    check_settings,
    parse_setting,
)


def test_every_number_of_the_recipe_is_a_setting_of_its_type() -> None:
    recipe = get_type_hints(Recipe)
    assert {name: TYPES[name] for name in RECIPE_NAMES} == {
        field.name: recipe[field.name] for field in fields(Recipe)
    }
    assert {name for name, kind in recipe.items() if kind in (int, float)} == RANGES.keys()


def test_the_networks_settings_are_its_fields() -> None:
    network = get_type_hints(NetworkConfig)
    assert all(TYPES[name] is network[name] for name in NETWORK_NAMES)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("batch_size=64", 64),
        ("cutmix=0.5", 0.5),
        ("cutmix=1", 1.0),
        ("flip=false", False),
        ("flip = Yes", True),
        ("bf16=1", True),
        ("data_name=My photos, a=b", "My photos, a=b"),
        ("data_licence=", ""),
    ],
)
def test_a_setting_is_read_as_its_type(text: str, value: Any) -> None:
    name, read = parse_setting(text)
    assert name == text.partition("=")[0].strip()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cutmix", "'cutmix': expected NAME=VALUE, for example batch_size=64"),
        ("shade=red", "unknown setting 'shade': expected one of balanced, batch_size, bf16, "),
        ("=3", "unknown setting ''"),
        ("batch_size=1.5", "batch_size is '1.5': expected an integer, 2 to 65536"),
        ("cutmix=half", "cutmix is 'half': expected a number, 0 to 1"),
        ("flip=maybe", "flip is 'maybe': expected true or false"),
    ],
)
def test_a_setting_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_setting(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shade": "red"}, "unknown setting 'shade'"),
        ({"epochs": "3"}, "epochs is '3': expected an integer, 1 to 100000"),
        ({"epochs": 3.0}, r"epochs is 3\.0: expected an integer"),
        ({"epochs": True}, "epochs is True: expected an integer"),
        ({"flip": 1}, "flip is 1: expected true or false"),
        ({"data_name": None}, "data_name is None: expected text"),
    ],
)
def test_settings_of_another_type_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        check_settings(settings)  # type: ignore[arg-type]
    check_settings({"learning_rate": 1, "flip": False})


def test_the_names_are_known_without_torch() -> None:
    code = "import sys, nin_edge.training.settings; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "set()\n"
