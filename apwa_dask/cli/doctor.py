"""What is looked at before somebody asks for help: versions, settings, key, store, ports, model, cluster.

Each check gives a sentence and never a secret: of a key only the variable's name and whether it is set.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import ipaddress
import os
import platform
import socket
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from apwa_dask import __version__, config
from apwa_dask.errors import ApwaError
from apwa_dask.observe.text import money_text, seconds_text, things_text

__all__ = ["Check", "checks"]

_CONNECT_TIMEOUT_S = 5.0
State = Literal["ok", "note", "fail"]
_PACKAGE = "apwa_dask"
_PACKAGES = ("dask", "distributed", "pandas", "pyarrow", "openai", "duckdb", "aiohttp", "pydantic")
_MUST_AGREE = (_PACKAGE, "dask", "distributed", "msgpack", "cloudpickle", "pandas", "pyarrow")


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. ``note`` is worth knowing, ``fail`` is in the way."""

    name: str
    state: State
    detail: str
    fix: str = ""


def checks(
    *, store: str | None = None, client: Any = None, model: Any = None, call: bool = False
) -> list[Check]:
    """All checks, in the order to read them.

    Parameters
    ----------
    store : str, optional
        As in a run.
    client : distributed.Client, optional
        A cluster to compare versions with.
    model : Model or str, optional
        As in a run.
    call : bool
        Send one tiny question to the model, where an endpoint or a model is named.
    """
    looked_at: list[Callable[[], Iterable[Check]]] = [
        _versions,
        _settings,
        lambda: _endpoint(model),
        lambda: [_store(store)],
        lambda: [_loopback()],
        _embedded_model,
    ]
    if call:
        looked_at.append(lambda: _one_call(model))
    if client is not None:
        looked_at.append(lambda: _cluster(client))
    return [check for look in looked_at for check in look()]


def _versions() -> Iterator[Check]:
    yield Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Check("apwa_dask", "ok", __version__)
    bounds = _required()
    for name in _PACKAGES:
        found = _version_of(name)
        bound = bounds.get(name)
        if found is None:
            yield Check(name, "fail", "not installed", f"pip install {bound or name}")
        elif bound is not None and not bound.specifier.contains(found, prereleases=True):
            yield Check(name, "fail", f"{found}, needed {bound.specifier}", f"pip install '{bound}'")
        else:
            yield Check(name, "ok", found)


def _required() -> dict[str, Any]:
    """The package's own bounds, from its metadata; none when it runs from a plain folder."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    required = [Requirement(line) for line in lines]
    return {found.name.lower(): found for found in required if found.marker is None}


def _version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _settings() -> Iterator[Check]:
    problems = [f"apwa.{name} is no setting: {hint}" for name, hint in config.misplaced().items()]
    for name in config.defaults():
        try:
            config.get(name)
        except ApwaError as error:
            problems.append(error.what)
    if not problems:
        yield Check("settings", "ok", "all known, all of the right kind")
    for problem in problems:
        yield Check("settings", "fail", problem, "see Dask's configuration files and DASK_APWA__ variables")


def _endpoint(model: Any) -> Iterator[Check]:
    url = getattr(model, "base_url", None) or config.get("base-url") or os.environ.get("OPENAI_BASE_URL")
    variable = getattr(model, "api_key_env", "") or config.get("api-key-env")
    yield Check(
        "endpoint", "ok", _without_userinfo(url) if url else "the OpenAI API (OPENAI_BASE_URL is not set)"
    )
    yield _key(variable, is_needed=_is_elsewhere(url, model))
    if url and not urllib.request.getproxies():
        yield _reached(url)


def _key(variable: str, *, is_needed: bool) -> Check:
    if not variable:
        return Check("key", "ok", "the endpoint is asked without one")
    if os.environ.get(variable):
        return Check("key", "ok", f"{variable} is set")
    fix = f"export {variable}=..., on the machines of the Dask workers too"
    if is_needed:
        fix += "; any word, where the endpoint wants no key"
        return Check("key", "fail", f"{variable} is not set, and the endpoint is on another machine", fix)
    return Check(
        "key", "note", f"{variable} is not set: only the embedded model, or an endpoint without keys", fix
    )


def _is_elsewhere(url: str | None, model: Any) -> bool:
    """Whether questions would go to another machine, which hardly any answers without a key."""
    named = getattr(model, "name", model) or config.get("model", None) or os.environ.get("OPENAI_MODEL")
    if str(getattr(model, "base_url", None) or named).partition(":")[0] == "local":
        return False
    if not url:
        return named is not None  # at the OpenAI API; without a name, the embedded model answers
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost" and not host.endswith(".localhost")


def _reached(url: str) -> Check:
    """Open a connection to the endpoint and say nothing. Behind a proxy that would prove nothing."""
    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        return Check(
            "endpoint port",
            "fail",
            f"nothing answers at {_without_userinfo(url)}: {type(error).__name__}",
            "start the server, or correct OPENAI_BASE_URL or apwa.base-url",
        )
    return Check("endpoint port", "ok", f"{host}:{port} is open")


def _without_userinfo(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _store(store: str | None) -> Check:
    """Write, read and delete a small file where runs are kept."""
    import fsspec

    try:
        url = _store_url(store)
    except ApwaError as error:
        return Check("store", "fail", error.what, error.fix)
    content = os.urandom(64)
    try:
        files, path = fsspec.core.url_to_fs(url)
        probe = f"{path.rstrip('/')}/.doctor-{uuid.uuid4().hex}"
        files.makedirs(path, exist_ok=True)
        files.pipe_file(probe, content)
        read_back = files.cat_file(probe)
        files.rm_file(probe)
    except (OSError, ValueError, ImportError) as error:
        return Check(
            "store",
            "fail",
            f"{_without_userinfo(url)}: {type(error).__name__}",
            "name another one with --store or apwa.store",
        )
    if read_back != content:
        return Check("store", "fail", f"{_without_userinfo(url)}: what is read is not what was written")
    return Check("store", "ok", f"{_without_userinfo(url)} can be written")


def _store_url(store: str | None) -> str:
    configured = config.get("store", store)
    if configured is not None:
        return str(configured)
    from apwa_dask.store.names import default_store

    return default_store()


def _loopback() -> Check:
    """Open a port on loopback and reach it: the embedded model and local clusters need that."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5) as sent,
        ):
            accepted, _ = server.accept()
            with accepted:
                sent.sendall(b"x")
                works = accepted.recv(1) == b"x"
    except OSError as error:
        return Check(
            "loopback", "fail", f"no port on 127.0.0.1: {error}", "allow local connections for this user"
        )
    return Check("loopback", "ok" if works else "fail", "ports on 127.0.0.1 can be opened and reached")


def _embedded_model() -> Iterator[Check]:
    from apwa_dask.models.local import DEFAULT_MODEL, cached_weights, known_weights, models_folder

    runtime = _version_of("xllamacpp")
    if runtime is None:
        yield Check("local runtime", "note", "xllamacpp is not installed", "pip install 'apwa_dask[local]'")
    else:
        yield Check("local runtime", "ok", f"xllamacpp {runtime}")
    weights = known_weights(DEFAULT_MODEL)
    own = os.environ.get("APWA_LOCAL_MODEL")
    if own:
        is_file = Path(own).expanduser().is_file()
        detail = f"APWA_LOCAL_MODEL names {own}" + ("" if is_file else ", which is no file")
        yield Check("local model", "ok" if is_file else "fail", detail)
    elif cached_weights(weights) is not None:
        yield Check("local model", "ok", f"{weights.name} is in {models_folder()}")
    else:
        yield Check(
            "local model", "note", f"{weights.name} ({weights.size_text}) is not fetched yet", "apwa setup"
        )


def _one_call(model: Any) -> Iterator[Check]:
    """Ask the model one word. Where nothing is configured, nothing would be learned."""
    named = model if model is not None else config.get("model", None)
    endpoint = config.get("base-url") or os.environ.get("OPENAI_BASE_URL")
    if named is None and not endpoint and not os.environ.get(config.get("api-key-env")):
        return
    from apwa_dask.cli.one_call import answer_of, asked_for

    try:
        asked = asked_for(model)
    except ApwaError as error:
        yield Check("call", "note", f"none was made: {error.what}", error.fix)
        return
    try:
        reply = answer_of(asked)
    except ApwaError as error:
        why = f" ({error.why})" if error.why else ""
        yield Check("call", "fail", f"{asked.name}: {error.what}{why}", error.fix)
        return
    tokens = f"{things_text(reply.usage.input, 'token')} in, {reply.usage.output:,} out"
    cost = "price unknown" if reply.cost_usd is None else money_text(reply.cost_usd)
    yield Check(
        "call",
        "ok",
        f"{reply.model or asked.name} answers: {seconds_text(reply.latency_s)}, {tokens}, {cost}",
    )


def _cluster(client: Any) -> Iterator[Check]:
    """Versions of client, scheduler and workers; a difference fails in ways that are hard to read."""

    # Inside, so that it travels by value: where this package is missing, its functions are not found by name.
    def versions_of(names: tuple[str, ...]) -> dict[str, str | None]:
        from importlib.metadata import PackageNotFoundError, version

        found: dict[str, str | None] = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
        return found

    workers = client.run(versions_of, _MUST_AGREE)
    there = {"scheduler": client.run_on_scheduler(versions_of, _MUST_AGREE), **workers}
    yield Check("cluster", "ok", f"{things_text(len(workers), 'worker')} at {client.scheduler.address}")
    for name, ours in versions_of(_MUST_AGREE).items():
        yield _agreement(name, ours, {where: found[name] for where, found in there.items()})


def _agreement(name: str, here: str | None, there: dict[str, str | None]) -> Check:
    other = {where: version for where, version in there.items() if version != here}
    if not other:
        return Check(f"cluster {name}", "ok", f"{here or 'not installed'} everywhere")
    listed = ", ".join(f"{where} has {version or 'none'}" for where, version in list(other.items())[:3])
    more = f" and {len(other) - 3} more" if len(other) > 3 else ""
    return Check(
        f"cluster {name}",
        "fail",
        f"here {here or 'none'}, {listed}{more}",
        "install the same version on client, scheduler and workers",
    )
