"""Sphinx: ``make docs``."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import apwa_dask

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

project = "apwa_dask"
author = "The apwa_dask developers"
copyright = "2026, The apwa_dask developers"
version = release = apwa_dask.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

# Outputs are in the notebooks; the tests execute them.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "pydata_sphinx_theme"
html_title = "apwa_dask"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["outputs.css"]
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}

LINK = re.compile(r"\[([^\]\n]+)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def without_links_out(text: str, page: Path) -> str:
    """Links that leave this folder (to tests, README, benchmarks) as names of files: the pages stand alone."""

    def replaced(found: re.Match[str]) -> str:
        words, target = found[1], (page.parent / found[2]).resolve()
        if target.is_relative_to(HERE):
            return found[0]
        name = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else found[2]
        return f"`{name}`" if words.strip("`") in (name, found[2]) else f"{words} (`{name}`)"

    return LINK.sub(replaced, text)


def read_source(app: Any, name: str, source: list[str]) -> None:
    if (HERE / f"{name}.md").exists():
        source[0] = without_links_out(source[0], HERE / f"{name}.md")


def bring_notebooks(app: Any) -> None:
    """Sphinx reads below its own folder only; the copies are ignored by git."""
    target = HERE / "notebooks"
    target.mkdir(exist_ok=True)
    names = set()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        names.add(notebook.name)
        copy = target / notebook.name
        if not copy.exists() or copy.read_bytes() != notebook.read_bytes():
            shutil.copyfile(notebook, copy)
    for picture in (ROOT / "notebooks").glob("*.png"):
        shutil.copyfile(picture, target / picture.name)
    for stale in {path.name for path in target.glob("*.ipynb")} - names:
        (target / stale).unlink()
    index = f"# Notebooks\n\nExecuted, with their outputs.\n\n```{{toctree}}\n{chr(10).join(sorted(names))}\n```\n"
    (target / "index.md").write_text(index, encoding="utf-8")


def setup(app: Any) -> None:
    app.connect("builder-inited", bring_notebooks)
    app.connect("source-read", read_source)
