"""The errors that stop a run, in words that teach: which variables were looked at, which models are near."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from apwa_dask.errors import ApwaError, ProviderError, candidates
from apwa_dask.models.model import Model
from apwa_dask.models.outcomes import Verdict

if TYPE_CHECKING:
    from apwa_dask.models.endpoints import Lane

__all__ = ["fatal_error", "no_embeddings_error", "unreachable_error"]

LIST_TIMEOUT_S = 5.0
_RESUME = "all answers so far; the rows without one are still pending, and a resume tries them"


async def fatal_error(lane: Lane, verdict: Verdict) -> ProviderError:
    """The error for a verdict that is fatal."""
    model = lane.model
    where = f"model {model.name!r} at {model.endpoint_identity}"
    if verdict.fatal == "key":
        return ProviderError(
            "the endpoint refuses the API key",
            where=f"{where}; key from {_key_source(model)}",
            why=verdict.words,
            fix="check that the key is for this endpoint and may use this model; looked at: "
            + ", ".join(variables_of(model)),
            saved=_RESUME,
            code="PROVIDER-KEY",
        )
    if verdict.fatal == "quota":
        return ProviderError(
            "the account is out of quota or credit",
            where=where,
            why=verdict.words,
            fix="add credit or raise the limit at the provider, then resume the run",
            saved=_RESUME,
            code="PROVIDER-QUOTA",
        )
    if verdict.fatal == "model":
        known = await _listed_models(lane)
        hint = candidates(model.name, known, noun="models") if known else "check the name and base_url"
        return ProviderError(
            "the endpoint does not know this model, or has nothing at this address",
            where=where,
            why=verdict.words,
            fix=hint,
            saved=_RESUME,
            code="PROVIDER-MODEL",
        )
    if verdict.fatal == "parameter":
        return ProviderError(
            "the model does not take a parameter that every request carries",
            where=where,
            why=verdict.words,
            fix="change the parameter in Model(...): temperature, top_p, seed, extra",
            saved=_RESUME,
            code="PROVIDER-PARAMETER",
        )
    return ProviderError(
        "the address does not answer like a chat completions endpoint",
        where=where,
        why=verdict.words,
        fix="base_url must be the part before /chat/completions; redirects are not followed",
        saved=_RESUME,
        code="PROVIDER-ENDPOINT",
    )


def no_embeddings_error(model: Model, verdict: Verdict) -> ProviderError:
    """The error for an endpoint that has no embeddings, or none of this model."""
    return ProviderError(
        "the endpoint does not embed texts with this model",
        where=f"model {model.name!r} at {model.endpoint_identity}/embeddings",
        why=verdict.words,
        fix="embed= names a model of embeddings at an endpoint that has /embeddings (a local server may need a "
        "flag for it); or leave embed out: the nearest texts are then found by shared parts of words, "
        "without a model",
        saved=_RESUME,
        code="PROVIDER-EMBEDDINGS",
    )


def unreachable_error(model: Model) -> ApwaError:
    """The error for an endpoint that never took a connection."""
    return ProviderError(
        "no connection to the endpoint",
        where=f"model {model.name!r} at {model.endpoint_identity}",
        why="it refused every attempt so far: a wrong address, a server that is not up, or a proxy",
        fix="check base_url; looked at: " + ", ".join(variables_of(model)),
        saved=_RESUME,
        code="PROVIDER-UNREACHABLE",
    )


def variables_of(model: Model) -> list[str]:
    """Names of the environment variables that decide endpoint and key. Never their values."""
    names = [model.api_key_env] if model.api_key_env else []
    if model.base_url is None:
        names.append("OPENAI_BASE_URL")
    return [*names, "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"]


def _key_source(model: Model) -> str:
    return f"environment variable {model.api_key_env}" if model.api_key_env else "nowhere: none was sent"


async def _listed_models(lane: Lane) -> list[str]:
    raw = await lane.transport.get_models(LIST_TIMEOUT_S)
    if raw.status != 200 or not raw.body:
        return []
    try:
        listed = orjson.loads(raw.body)["data"]
        return [str(entry["id"]) for entry in listed][:2000]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return []
