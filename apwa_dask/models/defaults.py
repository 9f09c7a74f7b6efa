"""Which model is meant when the user names none, or names it with a word."""

from __future__ import annotations

import os
from collections.abc import Mapping

from apwa_dask.errors import ConfigError
from apwa_dask.models.model import Model

__all__ = ["default_model", "resolve_models"]

DEFAULT_ALIAS = ""
"""Alias of the model that steps without an alias use."""


def default_model(environ: Mapping[str, str] | None = None) -> Model:
    """The model of the environment: the configured endpoint's, else the embedded one.

    An endpoint is configured by ``OPENAI_API_KEY`` or ``OPENAI_BASE_URL``, its model by ``OPENAI_MODEL``.

    Raises
    ------
    ConfigError
        An endpoint is configured, and no model is named for it: a guess could cost money.
    """
    known = os.environ if environ is None else environ
    endpoint = [name for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL") if known.get(name)]
    if not endpoint:
        return Model.local()
    name = known.get("OPENAI_MODEL", "").strip()
    if name:
        return _remote(name, known)
    raise ConfigError(
        "an endpoint is configured but no model is named",
        why=" and ".join(endpoint) + " set; OPENAI_MODEL and the setting apwa.model are not",
        fix='model="name" (or --model, OPENAI_MODEL, apwa.model); model="local" for the embedded one',
        code="CONFIG-MODEL",
    )


def resolve_models(spec: Model | str | Mapping[str, Model | str] | None) -> dict[str, Model]:
    """Models by alias, from what users write; the alias ``""`` is the one that steps without an alias use.

    Parameters
    ----------
    spec : Model, str, mapping of alias to either, or None
        ``"local"`` is the embedded model, ``"local:NAME"`` one of its catalogue. A mapping without ``""``
        takes its first entry for it.
    """
    if spec is None:
        return {DEFAULT_ALIAS: default_model()}
    if isinstance(spec, Mapping):
        if not spec:
            raise ConfigError("the mapping of models is empty", fix='model={"": "name"}', code="CONFIG-MODEL")
        models = {str(alias): _one(value) for alias, value in spec.items()}
        models.setdefault(DEFAULT_ALIAS, next(iter(models.values())))
        return models
    return {DEFAULT_ALIAS: _one(spec)}


def _one(spec: Model | str) -> Model:
    if isinstance(spec, Model):
        return spec
    if not isinstance(spec, str) or not spec.strip():
        fix = 'Model("name"), "name", "local", or a mapping of aliases to these'
        raise ConfigError("a model is a Model or its name", fix=fix, code="CONFIG-MODEL")
    name = spec.strip()
    if name == "local":
        return Model.local()
    if name.startswith("local:"):
        return Model.local(name.removeprefix("local:"))
    return _remote(name, os.environ)


def _remote(name: str, environ: Mapping[str, str]) -> Model:
    """A model at the configured endpoint. A server of one's own often wants no key, and then gets none."""
    keyless = bool(environ.get("OPENAI_BASE_URL")) and not environ.get("OPENAI_API_KEY")
    return Model(name, api_key_env="" if keyless else "OPENAI_API_KEY")
