"""Who takes part in the overhead benchmark, and which interpreter runs whom."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CLIENTS", "DASK_FLOOR", "ENGINES", "FLOOR", "PYTHONS_VARIABLE", "Contestant", "named", "pythons"]

PYTHONS_VARIABLE = "APWA_BENCH_PYTHONS"
FLOOR = "raw aiohttp"
DASK_FLOOR = "raw aiohttp on Dask"
ENGINES = {"engine": FLOOR, "engine on Dask": DASK_FLOOR}
"""Forms of the engine, and beside what each is held."""


@dataclass(frozen=True)
class Contestant:
    """One client.

    Parameters
    ----------
    name : str
        In tables.
    script : str
        In ``benchmarks/clients``.
    words : tuple of str
        More arguments for it.
    slow : bool
        Costs more than ten times raw aiohttp a call: gets a case's `slow_rows`.
    peer : bool
        A library to compare with, run where ``--peers`` says so.
    same_prompt : bool
        Sends the engine's very bytes as user message.
    environment : str
        Key of `pythons`: libraries whose pins clash live apart. Empty: this interpreter.
    """

    name: str
    script: str
    words: tuple[str, ...] = ()
    slow: bool = False
    peer: bool = False
    same_prompt: bool = False
    environment: str = ""


CLIENTS: Mapping[str, Contestant] = {
    each.name: each
    for each in (
        Contestant(FLOOR, "raw_aiohttp.py", same_prompt=True),
        Contestant("raw aiohttp, uvloop", "raw_aiohttp.py", ("uvloop",), same_prompt=True),
        Contestant("engine", "engine.py", same_prompt=True),
        Contestant("engine on Dask", "engine.py", ("dask",), same_prompt=True),
        Contestant(DASK_FLOOR, "raw_dask.py", same_prompt=True),
        Contestant("AsyncOpenAI loop", "openai_loop.py", slow=True, same_prompt=True),
        Contestant("naive Dask", "naive_dask.py", slow=True, same_prompt=True),
        Contestant("LangChain", "langchain_batch.py", slow=True, peer=True, environment="langchain"),
        Contestant("pydantic-ai", "pydantic_agents.py", slow=True, peer=True, environment="pydantic-ai"),
        Contestant("semlib", "semlib_map.py", slow=True, peer=True, environment="semlib"),
        Contestant("fenic", "fenic_map.py", slow=True, peer=True, environment="fenic"),
        Contestant("DocETL", "docetl_map.py", slow=True, peer=True, environment="docetl"),
    )
}


def pythons(given: Sequence[str]) -> dict[str, str]:
    """Interpreters by environment, from ``NAME=PATH`` words after those of the variable (comma separated).

    Raises
    ------
    ValueError
        A word names no known environment, or a path that is no file.
    """
    known = {each.environment for each in CLIENTS.values()} - {""}
    found: dict[str, str] = {}
    for word in [*filter(None, os.environ.get(PYTHONS_VARIABLE, "").split(",")), *given]:
        name, _, path = word.partition("=")
        if name not in known:
            raise ValueError(f"no environment is called {name!r}; known: {', '.join(sorted(known))}")
        if not Path(path).is_file():
            raise ValueError(f"{path!r} is no interpreter for {name}")
        found[name] = path
    return found


def named(names: Sequence[str], peers: bool) -> list[Contestant]:
    """The clients of these names (all when none is named), the floor first; peers where asked or named.

    Raises
    ------
    ValueError
        A name is not known.
    """
    for name in names:
        if name not in CLIENTS:
            raise ValueError(f"no client is called {name!r}; known: {', '.join(CLIENTS)}")
    everyone = [each for each in CLIENTS.values() if each.name in names or (not names and not each.peer)]
    if peers:
        everyone += [each for each in CLIENTS.values() if each.peer and each not in everyone]
    floor = CLIENTS[FLOOR]
    return [floor, *(each for each in everyone if each != floor)]


def command(client: Contestant, interpreters: Mapping[str, str], job: Path, out: Path) -> list[str]:
    """The words that start a client's process."""
    script = Path(__file__).parent / "clients" / client.script
    return [
        interpreters.get(client.environment, sys.executable),
        str(script),
        str(job),
        str(out),
        *client.words,
    ]
