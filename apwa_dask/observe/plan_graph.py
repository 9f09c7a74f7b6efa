"""A plan as a drawn graph: tables and steps as boxes in layers, what is read by what as lines. Inline SVG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from apwa_dask.observe.text import safe_text

__all__ = ["GraphNode", "plan_graph"]

MAX_NODES = 80
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
