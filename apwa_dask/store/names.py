"""Names that may become part of a path, and URLs that may be written down or shown."""

from __future__ import annotations

import os
import re
import secrets
import time
from pathlib import Path
from typing import Any

from apwa_dask.errors import StoreError

__all__ = [
    "JOURNAL_KEY_VARIABLE",
    "STORE_VARIABLE",
    "default_store",
    "journal_key",
    "new_run_id",
    "redact",
    "redact_tree",
    "safe_name",
    "safe_namespace",
]

STORE_VARIABLE = "APWA_STORE"
JOURNAL_KEY_VARIABLE = "APWA_JOURNAL_KEY"
"""Environment variable with the secret that signs a tenant's journal; unset: nothing is signed."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Lower case only: on a case-insensitive disk "Acme" and "acme" would be one tenant.
_SAFE_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_WINDOWS_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))]
)
_USERINFO = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]{0,30}://)[^\s/?#@\"'<>]{1,512}@")
_SECRET_PARAMETER = re.compile(
    r"(?P<name>[?&][A-Za-z0-9_.-]*(?:sig|signature|token|secret|password|passwd|credential|key|auth)[A-Za-z0-9_.-]*=)"
    r"[^\s&#\"'<>]+",
    re.IGNORECASE,
)
MIN_KEY_BYTES = 16
_NEVER_STORED = "storage_options"


def safe_name(value: str | int, what: str) -> str:
    """`value` as one path segment.

    Raises
    ------
    StoreError
        Where it could leave its folder, or is not a valid file name on some system.
    """
    return _checked(str(value), what, _SAFE_NAME, "letters, digits, '.', '_' and '-'")


def safe_namespace(value: str) -> str:
    """`value` as the folder of one tenant: like `safe_name`, lower case only.

    Raises
    ------
    StoreError
        Where it is not such a name.
    """
    return _checked(value, "namespace", _SAFE_NAMESPACE, "lower-case letters, digits, '.', '_' and '-'")


def _checked(value: str, what: str, pattern: re.Pattern[str], allowed: str) -> str:
    stem = value.split(".", 1)[0].lower()
    if pattern.fullmatch(value) and ".." not in value and value[-1] != "." and stem not in _WINDOWS_DEVICES:
        return value
    raise StoreError(
        f"{value[:60]!r} cannot be a {what}",
        why="it becomes part of a path in the store",
        fix=f"use up to 100 {allowed}, starting with a letter or digit",
        code="STORE-NAME",
    )


def new_run_id(now_s: float | None = None) -> str:
    """A run id that sorts by its time of birth (UTC): ``20261122-130034-9f31c07a``."""
    moment = time.gmtime(time.time() if now_s is None else now_s)
    return f"{time.strftime('%Y%m%d-%H%M%S', moment)}-{secrets.token_hex(4)}"


def redact(text: str) -> str:
    """`text` without the user-info part and the secret query parameters of the URLs in it.

    Examples
    --------
    >>> redact("s3://AKIA:secret@bucket/a?X-Amz-Signature=0f&versionId=3")
    's3://bucket/a?X-Amz-Signature=***&versionId=3'
    """
    return _SECRET_PARAMETER.sub(r"\g<name>***", _USERINFO.sub(r"\g<scheme>", text))


def redact_tree(value: Any) -> Any:
    """`value` (JSON data) with every string redacted.

    Raises
    ------
    StoreError
        Where it holds ``storage_options``: these live in memory only.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        if _NEVER_STORED in value:
            raise StoreError(
                "storage_options must not be stored with a run",
                why="they can hold credentials",
                fix="pass storage_options again when the run is opened",
                code="STORE-SECRET",
            )
        return {str(key): redact_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_tree(item) for item in value]
    return value


def default_store() -> str:
    """The store used when none is named: ``$APWA_STORE``, else a per-user data folder (mode 0700)."""
    chosen = os.environ.get(STORE_VARIABLE, "").strip()
    if chosen:
        return chosen
    folder = _user_data_folder() / "apwa"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            "the default store folder cannot be made",
            where=str(folder),
            why=error.strerror or type(error).__name__,
            fix=f"set {STORE_VARIABLE} to a folder or URL you can write to, or pass store=",
        ) from None
    return str(folder)


def journal_key() -> bytes | None:
    """The key in ``$APWA_JOURNAL_KEY``; None where there is none.

    Raises
    ------
    StoreError
        Where it is too short to be a secret.
    """
    key = os.environ.get(JOURNAL_KEY_VARIABLE, "").strip().encode()
    if 0 < len(key) < MIN_KEY_BYTES:
        raise StoreError(
            f"the key in {JOURNAL_KEY_VARIABLE} is too short",
            why=f"it signs the journal, and has {len(key)} bytes of at least {MIN_KEY_BYTES}",
            fix='make one: python -c "import secrets; print(secrets.token_hex(32))"',
            code="STORE-KEY",
        )
    return key or None


def _user_data_folder() -> Path:
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if os.uname().sysname == "Darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
