"""Settings: defaults and schema agree, the environment counts, mistakes are told without quoting them."""

from __future__ import annotations

import importlib.resources
import os
import subprocess
import sys

import dask.config
import jsonschema
import pytest
import yaml

from apwa_dask import config
from apwa_dask.errors import ConfigError


def shipped(name: str) -> dict:
    return yaml.safe_load(importlib.resources.files("apwa_dask").joinpath(name).read_text(encoding="utf-8"))


def test_defaults_and_schema_name_the_same_settings_and_the_defaults_fit():
    defaults, schema = shipped("apwa.yaml"), shipped("apwa-schema.yaml")
    assert list(defaults["apwa"]) == list(schema["properties"]["apwa"]["properties"])
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(defaults, schema)


def test_every_setting_is_described():
    assert all(len(config.describe(name)) > 30 for name in config.defaults())


def test_no_setting_can_hold_a_secret():
    assert not [name for name in config.defaults() if name.endswith(("key", "secret", "token", "password"))]


def test_an_argument_wins_over_the_setting_and_the_setting_over_the_default():
    assert config.get("on-error") == "keep"
    with dask.config.set({"apwa.on-error": "drop"}):
        assert config.get("on_error") == "drop"
        assert config.get("on-error", "raise") == "raise"


def test_zero_and_false_are_values_and_not_absence():
    assert config.get("budget-required-above-usd", 0) == 0
    with dask.config.set({"apwa.progress-summary": False}):
        assert config.get("progress-summary") is False


def read_back(value: str) -> str:
    with dask.config.set({"apwa.on-error": value}):
        return config.get("on-error")


@pytest.mark.parametrize(
    "read", [read_back, lambda value: config.get("on-error", value)], ids=["set", "given"]
)
def test_a_wrong_value_is_refused_with_what_fits_and_is_not_quoted(read):
    canary = "sk-canary-0123456789"
    with pytest.raises(ConfigError) as caught:
        read(canary)
    assert "keep, drop, raise" in str(caught.value)
    assert canary not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("max-concurrency", 0, "at least 1"), ("max-concurrency", "many", "integer or null"),
     ("max-concurrency", True, "integer"),
     ("max-failed-fraction", 2, "at most 1"), ("api-key-env", "sk-live-123", "the name of a variable")],
)  # fmt: skip
def test_what_fits_is_said_in_words(name, value, words):
    with pytest.raises(ConfigError, match=words):
        config.get(name, value)


def test_an_unknown_setting_names_the_nearest_one():
    with pytest.raises(ConfigError, match="did you mean 'max-concurrency'"):
        config.get("max-concurency")


def test_settings_that_nobody_reads_are_found():
    with dask.config.set({"apwa.budgt-required-above-usd": 3}):
        assert "did you mean 'budget-required-above-usd'" in config.misplaced()["budgt-required-above-usd"]
    assert config.misplaced() == {}


def test_the_environment_sets_values_by_the_convention_of_dask():
    code = "from apwa_dask import config; print(config.get('max-concurrency'), config.get('on-error'))"
    environment = {**os.environ, "DASK_APWA__MAX_CONCURRENCY": "32", "DASK_APWA__ON_ERROR": "drop"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["32", "drop"]
