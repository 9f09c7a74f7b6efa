"""What a caller's own functions need to be on a cluster: seen before anything is spent, named when they cannot.

Tools are registered by name. Those of an installed package are found by every worker; those of a notebook are
sent to the workers once, as Dask sends any function.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import dask.dataframe as dd
from dask._expr import Expr
from dask.delayed import Delayed
from distributed import Client, Worker, WorkerPlugin

from apwa_dask.agents.capabilities import Capability, adopt, find_capability
from apwa_dask.errors import ConfigError, PlanError
from apwa_dask.execution.broadcast import everywhere, register_everywhere

__all__ = ["MAX_FUNCTION_BYTES", "ToolPlugin", "check_frame", "ship_tools"]

MAX_FUNCTION_BYTES = 10 * 2**20
"""A function that is larger has caught data; Dask itself warns at this size."""


@dataclass
class ToolPlugin(WorkerPlugin):
    """Registers a tool on every worker, also on those that join later."""

    name: str
    fields: bytes
    """The fields of a `Capability`: what it has derived from them is derived again."""
    idempotent = True

    def setup(self, worker: Worker) -> None:
        """Make the tool known in this process."""
        adopt(Capability(**cloudpickle.loads(self.fields)))


def ship_tools(client: Client, names: Sequence[str]) -> None:
    """Let every worker have these tools.

    Raises
    ------
    ConfigError
        ``CONFIG-TOOL``: a tool cannot travel, or is too large to; nothing was called.
    """
    if not names:
        return
    ours = {name: find_capability(name) for name in names}
    there: Mapping[str, Mapping[str, str]] = everywhere(client, _versions_here, list(names))
    for name, tool in ours.items():
        if any(known.get(name) != tool.version for known in there.values()):
            packed = _packed(tool)
            register_everywhere(client, ToolPlugin(f"apwa-tool-{name}-{tool.version}", packed))


def _versions_here(names: Sequence[str]) -> dict[str, str]:
    """Runs on each worker: the versions of the tools it has."""
    found = {}
    for name in names:
        try:
            found[name] = find_capability(name).version
        except PlanError:
            continue  # it will be sent
    return found


def _packed(tool: Capability) -> bytes:
    try:
        packed: bytes = cloudpickle.dumps({field.name: getattr(tool, field.name) for field in fields(tool)})
    except Exception as error:  # whatever an object's own pickling raises
        raise ConfigError(
            f"the tool {tool.name!r} cannot be sent to the workers",
            where=_place(tool.function),
            why=f"it holds {_culprit(_held_by(tool.function))} ({type(error).__name__})",
            fix="make such an object inside the function, or install the tool as a package on the workers",
            saved="nothing was called",
            code="CONFIG-TOOL",
        ) from None
    if len(packed) > MAX_FUNCTION_BYTES:
        raise ConfigError(
            f"the tool {tool.name!r} is too large to be sent to the workers: {len(packed) / 2**20:,.0f} MiB",
            where=_place(tool.function),
            why=f"it holds {_largest(_held_by(tool.function))}",
            fix="load such data inside the function, from a place that every worker can read",
            saved="nothing was called",
            code="CONFIG-TOOL",
        )
    return packed


def check_frame(alias: str, frame: dd.DataFrame) -> None:
    """Make sure that the functions in a caller's Dask frame can travel.

    Raises
    ------
    ConfigError
        ``CONFIG-FRAME``: a function of its graph cannot be sent, or has caught more data than a function may.
    """
    for function in _functions_of(frame):
        if getattr(function, "__closure__", None) is None and not _is_local(function):
            continue
        try:
            size = len(cloudpickle.dumps(function))
        except Exception as error:  # whatever an object's own pickling raises
            raise ConfigError(
                f"{_name(function)} cannot be sent to the workers",
                where=f"the Dask frame {alias!r}, {_place(function)}",
                why=f"it holds {_culprit(_held_by(function))} ({type(error).__name__})",
                fix="make such an object inside the function",
                saved="nothing was called",
                code="CONFIG-FRAME",
            ) from None
        if size > MAX_FUNCTION_BYTES:
            raise ConfigError(
                f"{_name(function)} is too large to be sent to the workers: {size / 2**20:,.0f} MiB",
                where=f"the Dask frame {alias!r}, {_place(function)}",
                why=f"it holds {_largest(_held_by(function))}",
                fix="load such data inside the function, or give it as a Dask frame",
                saved="nothing was called",
                code="CONFIG-FRAME",
            )


def _functions_of(frame: dd.DataFrame) -> Iterable[Any]:
    """Each function in the frame once: what a caller gave to `map_partitions`, and the tasks of ready-made graphs."""
    seen: set[int] = set()
    for expression in frame.expr.walk():
        for operand in expression.operands:
            for task in _tasks_in(operand):
                function = getattr(task, "func", task)
                if callable(function) and not isinstance(function, type) and id(function) not in seen:
                    seen.add(id(function))
                    yield function


def _tasks_in(operand: Any) -> Iterable[Any]:
    if isinstance(operand, Expr):
        return ()  # it is walked by itself
    if isinstance(operand, Delayed):
        return list(dict(operand.__dask_graph__()).values())
    return operand.values() if isinstance(operand, Mapping) else (operand,)


def _is_local(function: Any) -> bool:
    """Whether pickle must take the function itself along, and not only its name."""
    return getattr(function, "__module__", "") == "__main__" or "<" in getattr(function, "__qualname__", "")


def _held_by(function: Any) -> dict[str, Any]:
    """What a function takes along: its closure, and the globals that its code names."""
    code = getattr(function, "__code__", None)
    if code is None:
        return {"self": function}
    cells = getattr(function, "__closure__", None) or ()
    held = {name: cell.cell_contents for name, cell in zip(code.co_freevars, cells, strict=False)}
    known = getattr(function, "__globals__", {})
    return {**{name: known[name] for name in code.co_names if name in known}, **held}


def _culprit(held: Mapping[str, Any]) -> str:
    for name, value in held.items():
        try:
            cloudpickle.dumps(value)
        except Exception:  # this is the one that is looked for
            return f"{name!r}, a {type(value).__module__}.{type(value).__qualname__}"
    return "an object that belongs to this process"


def _largest(held: Mapping[str, Any]) -> str:
    sizes = {name: len(cloudpickle.dumps(value)) for name, value in held.items()}
    if not sizes:
        return "its own data"
    name = max(sizes, key=lambda name: sizes[name])
    kind = type(held[name])
    return f"{name!r}, a {kind.__module__}.{kind.__qualname__} of {sizes[name] / 2**20:,.0f} MiB"


def _name(function: Any) -> str:
    return f"the function {getattr(function, '__qualname__', type(function).__qualname__)!r}"


def _place(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else type(function).__qualname__
