"""Capabilities: typed Python functions, registered by name, that an agent may call as tools.

A plan names them; it never carries code. Each declares its power: ``pure`` and ``reads`` may be used by any
plan, ``network`` and ``writes`` only where the caller grants them by name, in code, for this run: an agent
that reads untrusted rows must not also be able to change or send things.

A parameter of type `Row` or `Tables` is not the model's to give: the engine fills it in with what the unit may
see. Capabilities of this package are in `apwa_dask.agents.builtin`; one of your own with the same name wins.
"""

from __future__ import annotations

import hashlib
import inspect
import threading
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar, overload

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from apwa_dask.agents.places import PathIn, UrlIn, place_in
from apwa_dask.agents.unit import NOTHING, Row, Tables, Unit
from apwa_dask.errors import ConfigError, PlanError, candidates

__all__ = [
    "Capability",
    "Power",
    "ToolResult",
    "adopt",
    "capability",
    "described",
    "find_capability",
    "known_capabilities",
    "powers_of",
    "pure_capabilities",
    "why_unfit",
]

Power = Literal["pure", "reads", "network", "writes"]
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
    hints : mapping, optional
        Types of the parameters, where they are known already: a function that travels to another process
        leaves the names behind in which its annotations are written.
    """

    name: str
    description: str
    function: Callable[..., Any]
    power: Power
    version: str
    max_result_chars: int = 8_000
    hints: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def _hints(self) -> Mapping[str, Any]:
        """Types of the parameters, with what ``Annotated`` says of them: bounds, descriptions, places."""
        if self.hints is not None:
            return self.hints
        try:
            return typing.get_type_hints(self.function, include_extras=True)
        except NameError as error:
            raise _unfit(
                self.name, f"the type {error.name!r} is not known in {self.function.__module__}"
            ) from None

    @cached_property
    def filled_in(self) -> Mapping[str, type]:
        """Parameters that the engine gives: `Row` or `Tables`, by name."""
        hints = self._hints
        return {name: kind for name, kind in hints.items() if kind in (Row, Tables) and name != "return"}

    @property
    def reads_tables(self) -> bool:
        """Whether it takes the tables that a contract lends."""
        return Tables in self.filled_in.values()

    @property
    def needs_tables(self) -> bool:
        """Whether it can do nothing without one: it takes `Tables` and has no `Row` to work on."""
        return self.reads_tables and Row not in self.filled_in.values()

    @cached_property
    def declared_places(self) -> frozenset[str]:
        """Parameters that are declared to be URLs or paths (`UrlIn`, `PathIn`)."""
        return frozenset(
            name
            for name, hint in self._hints.items()
            if any(isinstance(rule, (UrlIn, PathIn)) for rule in getattr(hint, "__metadata__", ()))
        )

    def undeclared_place(self, given: BaseModel) -> str | None:
        """The first argument that is a URL or a path without being declared one; None for pure tools."""
        if self.power == "pure":
            return None
        names = (name for name in type(given).model_fields if name not in self.declared_places)
        return next((name for name in names if place_in(getattr(given, name))), None)

    @cached_property
    def arguments(self) -> type[BaseModel]:
        """The pydantic model of the arguments, from the signature."""
        hints = self._hints
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.name in self.filled_in:
                continue
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
        return self.wire_with("")

    def wire_with(self, more: str) -> Mapping[str, Any]:
        """As `wire`, with more words in the description."""
        schema = self.arguments.model_json_schema()
        schema.pop("title", None)
        description = f"{self.description}\n{more}" if more else self.description
        function = {"name": self.name, "description": description, "parameters": schema}
        return {"type": "function", "function": function, "x-version": self.version}

    def run(self, arguments: str, unit: Unit = NOTHING) -> ToolResult:
        """Call the function with the model's JSON arguments; every failure becomes an error result."""
        try:
            given = self.arguments.model_validate_json(arguments or "{}")
        except ValidationError as error:
            return ToolResult(
                why_unfit(error), error=True, reason=f"wrong arguments for the tool {self.name}"
            )
        try:
            result = self.function(
                **{name: getattr(given, name) for name in self.arguments.model_fields},
                **{name: unit.row if kind is Row else unit.tables for name, kind in self.filled_in.items()},
            )
        except Exception as error:  # a tool's failure is the row's, with the reason kept
            words = f"the tool {self.name} raised {type(error).__name__}"
            return ToolResult(f"{words}: {error}"[: self.max_result_chars], error=True, reason=words)
        text = result if isinstance(result, str) else _as_json(result)
        if len(text) > self.max_result_chars:
            text = f"{text[: self.max_result_chars]}\n[cut: {len(text):,} characters]"
        return ToolResult(text)


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
        entry = described(
            fn,
            name=name,
            description=description,
            power=power,
            version=version,
            max_result_chars=max_result_chars,
        )
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


def described(
    function: Callable[..., Any],
    *,
    name: str = "",
    description: str = "",
    power: Power = "pure",
    version: str = "",
    max_result_chars: int = 8_000,
) -> Capability:
    """A capability that is registered nowhere; parameters as in `capability`.

    Raises
    ------
    ConfigError
        The signature cannot be a schema.
    """
    about = description or (inspect.getdoc(function) or "").split("\n\n")[0]
    entry = Capability(
        name or function.__name__, about, function, power, version or _version(function), max_result_chars
    )
    _ = entry.arguments  # an unfit signature is told where it is written
    return replace(entry, hints=entry._hints)


def adopt(tool: Capability) -> None:
    """Register a capability that another process registered, in place of an older one of that name."""
    with _registry_lock:
        _registry[tool.name] = tool


def find_capability(name: str) -> Capability:
    """The capability of this name: registered here, an entry point of the group ``apwa.capabilities``, or ours.

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
    found = _registry.get(name) or _builtin().get(name)
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
    installed = (entry_point.name for entry_point in entry_points(group=ENTRY_POINT_GROUP))
    return sorted({*_registry, *installed, *_builtin()})


def pure_capabilities() -> tuple[Capability, ...]:
    """Those of this package and of this process that only compute: what a planner may propose unasked."""
    known = {**_builtin(), **_registry}
    return tuple(known[name] for name in sorted(known) if known[name].power == "pure")


def powers_of(names: Iterable[str]) -> dict[str, str]:
    """What each of these tools may do, for telling it to a person; a tool that is not found is left out."""
    known = frozenset(known_capabilities()) if names else frozenset()
    return {name: find_capability(name).power for name in names if name in known}


def _builtin() -> Mapping[str, Capability]:
    """Imported where a plan first names a tool: most plans name none."""
    from apwa_dask.agents.builtin import BUILTIN

    return BUILTIN


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


def why_unfit(error: ValidationError) -> str:
    """For the model: places and kinds of the errors, without the values."""
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
