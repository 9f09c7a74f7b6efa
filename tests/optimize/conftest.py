"""The interpreter of plans, importable by the tests beside it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

_NAME = "tests_optimize_interpreter"
_SPEC = importlib.util.spec_from_file_location(_NAME, Path(__file__).with_name("interpreter.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
sys.modules[_NAME] = _MODULE
_SPEC.loader.exec_module(_MODULE)


@pytest.fixture
def interpreter() -> Any:
    return _MODULE.Interpreter()
