"""A plan as a drawn graph: tables and steps as boxes in layers, what is read by what as lines. Inline SVG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from apwa_dask.observe.text import safe_text

if TYPE_CHECKING:
    from apwa_dask.plans.plan import Plan

__all__ = ["GraphNode", "PlanDrawing", "nodes_of", "plan_graph"]

MAX_NODES = 80
_ALONE = """<style>
.apwa-graph text { font: 11px sans-serif; fill: currentColor; } .apwa-graph .name { font-size: 13px; font-weight: 600; }
.apwa-graph rect { fill: none; stroke: currentColor; stroke-opacity: .4; } .apwa-graph .edge { fill: none;
stroke: currentColor; stroke-opacity: .6; } .apwa-graph .model rect { stroke: #3b82c4; stroke-opacity: 1; }
.apwa-graph .table rect { stroke-dasharray: 4 3; }
</style>"""
"""Colours of the page around it, light or dark."""
_BOX_W, _BOX_H, _GAP_X, _GAP_Y, _EDGE = 168, 44, 28, 34, 6


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A table (``kind="table"``), or a step: ``"model"`` where it asks one, else ``"frame"``.

    ``inputs`` are names of other nodes; one that is not there is not drawn.
    """

    name: str
    does: str
    kind: str = "frame"
    inputs: Sequence[str] = ()


@dataclass(frozen=True)
class PlanDrawing:
    """A plan's graph: drawn in a notebook, one line for each step at a prompt."""

    nodes: tuple[GraphNode, ...]

    def __repr__(self) -> str:
        return "\n".join(
            f"{', '.join(node.inputs)} -> {node.name} ({safe_text(node.does)})"
            for node in self.nodes
            if node.inputs
        )

    def _repr_html_(self) -> str:
        return f"<div class='apwa-graph'>{_ALONE}{plan_graph(self.nodes) or ''}</div>"


def nodes_of(plan: Plan, models: Mapping[str, str] | None = None) -> tuple[GraphNode, ...]:
    """Tables and steps of a plan in its order; `models` are names by alias, where they are known."""
    from apwa_dask.plans.steps import LLMStep

    known = models or {}
    tables = [GraphNode(name, "table", "table") for name in plan.sources]
    steps = [
        GraphNode(
            step.id,
            ", ".join(filter(None, (step.op, known.get(step.contract.model or "", "")))),
            "model",
            step.inputs_from,
        )
        if isinstance(step, LLMStep)
        else GraphNode(step.id, step.op, "frame", step.inputs_from)
        for step in plan.steps
    ]
    return (*tables, *steps)


def plan_graph(nodes: Sequence[GraphNode]) -> Markup | None:
    """The graph as an SVG element, in the order of the data from left to right; None without nodes.

    A node stands one layer behind the last of what it reads. Nodes must come after what they read, as in a plan.
    """
    shown = list(nodes)[:MAX_NODES]
    if not shown:
        return None
    layer: dict[str, int] = {}
    for node in shown:
        layer[node.name] = max((layer[name] + 1 for name in node.inputs if name in layer), default=0)
    layers: dict[int, list[GraphNode]] = defaultdict(list)
    for node in shown:
        layers[layer[node.name]].append(node)
    tallest = max(len(column) for column in layers.values())
    places = {
        node.name: (
            _EDGE + at * (_BOX_W + _GAP_X),
            _EDGE + (row + (tallest - len(column)) / 2) * (_BOX_H + _GAP_Y / 2),
        )
        for at, column in layers.items()
        for row, node in enumerate(column)
    }
    width = len(layers) * (_BOX_W + _GAP_X) - _GAP_X + 2 * _EDGE
    height = tallest * (_BOX_H + _GAP_Y / 2) - _GAP_Y / 2 + 2 * _EDGE
    parts = [
        Markup(
            '<svg class="graph" viewBox="0 0 {0:.0f} {1:.0f}" width="{0:.0f}" height="{1:.0f}" role="img" '
        ).format(width, height),
        Markup('aria-label="Graph of the plan">'),
    ]
    parts += [
        _edge(places[name], places[node.name]) for node in shown for name in node.inputs if name in places
    ]
    parts += [_box(node, *places[node.name]) for node in shown]
    return Markup("").join(parts) + Markup("</svg>")


def _edge(start: tuple[float, float], end: tuple[float, float]) -> Markup:
    left, top = start[0] + _BOX_W, start[1] + _BOX_H / 2
    right, bottom = end[0], end[1] + _BOX_H / 2
    bend = (left + right) / 2
    return Markup('<path class="edge" d="M{:.0f} {:.0f}C{:.0f} {:.0f} {:.0f} {:.0f} {:.0f} {:.0f}"/>').format(
        left, top, bend, top, bend, bottom, right, bottom
    )


def _box(node: GraphNode, left: float, top: float) -> Markup:
    return Markup(
        '<g class="node {}"><title>{}</title><rect x="{:.0f}" y="{:.0f}" width="{}" height="{}" rx="8"/>'
        '<text class="name" x="{:.0f}" y="{:.0f}">{}</text><text class="does" x="{:.0f}" y="{:.0f}">{}</text></g>'
    ).format(
        node.kind if node.kind in ("table", "model") else "frame",
        safe_text(f"{node.name}: {node.does}", max_chars=300),
        left,
        top,
        _BOX_W,
        _BOX_H,
        left + 12,
        top + 19,
        safe_text(node.name, max_chars=20),
        left + 12,
        top + 35,
        safe_text(node.does, max_chars=24),
    )
