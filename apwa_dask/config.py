"""Settings, by Dask's own convention: the namespace ``apwa`` of ``dask.config``; keyword arguments win.

A setting comes from ``apwa.yaml`` beside this file, then from Dask's configuration files, then from the
environment (``DASK_APWA__MAX_CONCURRENCY=32``), then from ``dask.config.set``. Settings name an endpoint and
the variable of its key; they never hold a key.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from functools import cache
from typing import Any

import dask.config
import yaml

from apwa_dask.errors import ConfigError, candidates

__all__ = ["NAMESPACE", "defaults", "describe", "get", "misplaced"]

NAMESPACE = "apwa"


def get(name: str, override: Any = None) -> Any:
    """The value of a setting, or `override` where one is given (not None); checked against the schema.

    Parameters
    ----------
    name : str
        Such as ``"max-concurrency"``; dashes and underscores are alike.
    override : optional
        A keyword argument of the caller.

    Raises
    ------
    ConfigError
        There is no such setting, or its value does not fit; the message names what does.
    """
    key = name.replace("_", "-")
    rules = _rules()
    if key not in rules:
        raise ConfigError(
            f"there is no setting {name!r}",
            why=candidates(key, rules, noun="settings"),
            code="CONFIG-NAME",
        )
    if override is not None:
        _check(key, override, where="the argument you gave")
        return override
    value = dask.config.get(f"{NAMESPACE}.{key}", default=defaults()[key])
    _check(key, value, where=f"setting {NAMESPACE}.{key} (file, environment or dask.config.set)")
    return value


@cache
def defaults() -> Mapping[str, Any]:
    """The settings as shipped."""
    return dict(_shipped("apwa.yaml")[NAMESPACE])


def describe(name: str) -> str:
    """What a setting means, in a sentence or two."""
    return " ".join(str(_rules()[name.replace("_", "-")]["description"]).split())


def misplaced() -> dict[str, str]:
    """Names under ``apwa`` in the configuration that are no settings (they do nothing), each with a hint."""
    configured = dask.config.get(NAMESPACE, default={}) or {}
    known = _rules()
    return {
        name: candidates(name.replace("_", "-"), known, noun="settings")
        for name in sorted(configured)
        if name.replace("_", "-") not in known
    }


def _check(key: str, value: Any, *, where: str) -> None:
    import jsonschema  # type: ignore[import-untyped]

    errors = jsonschema.Draft202012Validator(_rules()[key]).iter_errors(value)
    error = jsonschema.exceptions.best_match(errors)
    if error is None:
        return
    raise ConfigError(
        f"the value of {key!r} does not fit: it must be {_wanted(error.validator, error.validator_value)}",
        where=where,
        why=describe(key),
        code="CONFIG-VALUE",
    )


def _wanted(rule: str, limit: Any) -> str:
    """What fits. The value itself is not quoted: it may be a key that somebody put in the wrong place."""
    match rule:
        case "enum":
            return "one of " + ", ".join(map(str, limit))
        case "type":
            return " or ".join(limit) if isinstance(limit, list) else str(limit)
        case "minimum":
            return f"at least {limit}"
        case "maximum":
            return f"at most {limit}"
        case "pattern":
            return "the name of a variable"
    return f"such that {rule} is {limit}"


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C reads our files in a tenth of the time, and they are read before the first call."""


@cache
def _rules() -> Mapping[str, Mapping[str, Any]]:
    schema = _shipped("apwa-schema.yaml")
    return dict(schema["properties"][NAMESPACE]["properties"])


def _shipped(file_name: str) -> dict[str, Any]:
    text = importlib.resources.files("apwa_dask").joinpath(file_name).read_text(encoding="utf-8")
    return dict(yaml.load(text, Loader=_LOADER))


dask.config.update_defaults({NAMESPACE: dict(defaults())})
