"""Capabilities: typed Python functions, registered by name, that an agent may call as tools.

A plan names them; it never carries code. Each declares its power: ``pure`` and ``reads`` may be used by any
plan, ``network`` and ``writes`` only where the caller grants them by name, in code, for this run: an agent
that reads untrusted rows must not also be able to change or send things.
"""

from __future__ import annotations

import hashlib
import inspect
import threading
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar, overload

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from apwa_dask.errors import ConfigError, PlanError, candidates
from apwa_dask.models.types import ToolCall

__all__ = [
    "Capability",
    "Power",
    "ToolResult",
    "Toolbox",
    "adopt",
    "capability",
    "find_capability",
    "known_capabilities",
]

Power = Literal["pure", "reads", "network", "writes"]
_FREE_POWERS = ("pure", "reads")
ENTRY_POINT_GROUP = "apwa.capabilities"
Function = TypeVar("Function", bound=Callable[..., Any])

_registry: dict[str, Capability] = {}
_registry_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave back.

    Parameters
    ----------
    content : str
        Text for the model.
    error : bool
        The tool failed; `content` says how.
    reason : str
        For an error: safe words for the row's outcome, without row text.
    """

    content: str
    error: bool = False
    reason: str = "a tool failed"


@dataclass(frozen=True)
class Capability:
    """A registered function.

    Parameters
    ----------
    name, description : str
        As the model sees them.
    function : callable
        Typed; synchronous.
    power : str
        ``pure``, ``reads``, ``network`` or ``writes``.
    version : str
        Part of every fingerprint of a request that offers the tool.
    max_result_chars : int
        Longer results are cut, with a mark that says so.
    """

    name: str
    description: str
    function: Callable[..., Any]
    power: Power
    version: str
    max_result_chars: int = 8_000

    @cached_property
    def arguments(self) -> type[BaseModel]:
        """The pydantic model of the arguments, from the signature."""
        hints = typing.get_type_hints(self.function)
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise _unfit(self.name, f"the parameter {parameter.name!r} cannot be passed by name")
            if parameter.name not in hints:
                raise _unfit(self.name, f"the parameter {parameter.name!r} has no type")
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
        return create_model(self.name, __config__=ConfigDict(extra="forbid"), **fields)

    @cached_property
    def wire(self) -> Mapping[str, Any]:
        """The function tool as sent, with ``x-version`` (hashed, not sent)."""
        schema = self.arguments.model_json_schema()
        schema.pop("title", None)
        function = {"name": self.name, "description": self.description, "parameters": schema}
        return {"type": "function", "function": function, "x-version": self.version}

    def run(self, arguments: str) -> ToolResult:
        """Call the function with the model's JSON arguments; every failure becomes an error result."""
        try:
            given = self.arguments.model_validate_json(arguments or "{}")
        except ValidationError as error:
            return ToolResult(
                _why_unfit(error), error=True, reason=f"wrong arguments for the tool {self.name}"
            )
        try:
            result = self.function(**{name: getattr(given, name) for name in self.arguments.model_fields})
        except Exception as error:  # a tool's failure is the row's, with the reason kept
            words = f"the tool {self.name} raised {type(error).__name__}"
            return ToolResult(f"{words}: {error}"[: self.max_result_chars], error=True, reason=words)
        text = result if isinstance(result, str) else _as_json(result)
        if len(text) > self.max_result_chars:
            text = f"{text[: self.max_result_chars]}\n[cut: {len(text):,} characters]"
        return ToolResult(text)


@dataclass(frozen=True)
class Toolbox:
    """The tools of one contract, checked against what the caller granted.

    Raises
    ------
    PlanError
        On `of`: an unknown name, or a power that was not granted.
    """

    tools: Mapping[str, Capability] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Iterable[str], grants: Iterable[str] = ()) -> Toolbox:
        """The tools of these names; `grants` names those whose ``network`` or ``writes`` power is allowed."""
        granted = frozenset(grants)
        tools = {name: find_capability(name) for name in names}
        for tool in tools.values():
            if tool.power not in _FREE_POWERS and tool.name not in granted:
                raise PlanError(
                    f"the tool {tool.name!r} has the power {tool.power!r}, which was not granted",
                    why="an agent that reads rows must not change or send things unless you say so in code",
                    fix=f'grants={{"{tool.name}"}} where you run the plan',
                    code="PLAN-TOOL-POWER",
                )
        return cls(tools)

    @property
    def wire(self) -> tuple[Mapping[str, Any], ...]:
        """The tools as sent."""
        return tuple(tool.wire for tool in self.tools.values())

    def objection(self, call: ToolCall) -> str | None:
        """Why this call may not run: an undeclared tool or unfit arguments; None when it may."""
        tool = self.tools.get(call.name)
        if tool is None:
            return f"no such tool; declared tools: {', '.join(self.tools) or 'none'}"
        try:
            tool.arguments.model_validate_json(call.arguments or "{}")
        except ValidationError as error:
            return _why_unfit(error)
        return None

    def run(self, call: ToolCall) -> ToolResult:
        """Run a call in this thread."""
        objection = self.objection(call)
        if objection is not None:
            return ToolResult(f"denied: {objection}", error=True, reason="a tool call was denied")
        return self.tools[call.name].run(call.arguments)


@overload
def capability(function: Function, /) -> Function: ...
@overload
def capability(
    *,
    name: str = ...,
    description: str = ...,
    power: Power = ...,
    version: str = ...,
    max_result_chars: int = ...,
) -> Callable[[Function], Function]: ...
def capability(
    function: Function | None = None,
    /,
    *,
    name: str = "",
    description: str = "",
    power: Power = "pure",
    version: str = "",
    max_result_chars: int = 8_000,
) -> Function | Callable[[Function], Function]:
    """Register a typed function as a tool that plans may name.

    Parameters
    ----------
    name, description : str
        Default: the function's name and the first paragraph of its docstring.
    power : str
        ``pure`` (default), ``reads``, ``network`` or ``writes``.
    version : str
        Default: a hash of the source, so that a changed function is called anew.
    max_result_chars : int
        Cap of one result.

    Examples
    --------
    >>> @capability
    ... def area_code(city: str) -> str:
    ...     "Telephone area code of a city."
    ...     return {"Ulm": "0731"}.get(city, "unknown")
    """

    def register(fn: Function) -> Function:
        about = description or (inspect.getdoc(fn) or "").split("\n\n")[0]
        entry = Capability(name or fn.__name__, about, fn, power, version or _version(fn), max_result_chars)
        _ = entry.arguments  # an unfit signature is told where it is written
        with _registry_lock:
            known = _registry.get(entry.name)
            if known is not None and known.function.__module__ != fn.__module__:
                raise ConfigError(
                    f"two capabilities have the name {entry.name!r}",
                    where=f"{known.function.__module__} and {fn.__module__}",
                    fix="capability(name=...)",
                    code="CONFIG-CAPABILITY",
                )
            _registry[entry.name] = entry
        return fn

    return register if function is None else register(function)


def adopt(tool: Capability) -> None:
    """Register a capability that another process registered, in place of an older one of that name."""
    with _registry_lock:
        _registry[tool.name] = tool


def find_capability(name: str) -> Capability:
    """The capability of this name: registered here, or an entry point of the group ``apwa.capabilities``.

    Raises
    ------
    PlanError
        Unknown; the message names the candidates.
    """
    if name not in _registry:
        for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
            loaded = entry_point.load()
            if name not in _registry:  # importing the module did not register it by decorator
                capability(name=name)(loaded)
    found = _registry.get(name)
    if found is None:
        raise PlanError(
            f"no capability is registered as {name!r}",
            why="workers find tools by name; the module that registers it must be imported on each of them",
            fix=candidates(name, known_capabilities(), noun="capabilities"),
            code="PLAN-TOOL",
        )
    return found


def known_capabilities() -> list[str]:
    """Names of all capabilities that can be found, sorted."""
    return sorted({*_registry, *(entry_point.name for entry_point in entry_points(group=ENTRY_POINT_GROUP))})


def _version(function: Callable[..., Any]) -> str:
    try:
        source = inspect.getsource(function).encode()
    except (OSError, TypeError):  # no source file: typed in, or compiled
        source = function.__code__.co_code if hasattr(function, "__code__") else repr(function).encode()
    return hashlib.sha256(source).hexdigest()[:16]


def _as_json(result: Any) -> str:
    return orjson.dumps(
        result, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    ).decode()


def _why_unfit(error: ValidationError) -> str:
    """Places and kinds of the errors, without the values."""
    details = error.errors(include_url=False, include_input=False, include_context=False)[:3]
    return "; ".join(
        f"{'.'.join(map(str, detail['loc'])) or 'arguments'}: {detail['msg']}" for detail in details
    )


def _unfit(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"{name!r} cannot be a capability: {why}",
        fix="give every parameter a type and a name",
        code="CONFIG-CAPABILITY",
    )
