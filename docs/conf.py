"""Sphinx: `make docs` builds these pages into build/docs."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

_DOCS = Path(__file__).resolve().parent
_ROOT = _DOCS.parent
sys.path[:0] = [str(_ROOT), str(_DOCS / "_ext")]
# Airflow makes its folder when it is imported, which autodoc does.
os.environ.setdefault("AIRFLOW_HOME", str(_ROOT / "var" / "docs-airflow"))

project = "Taxiway"
author = "The authors of Taxiway"
version = release = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinxarg.ext", "public_face"]
exclude_patterns = ["_ext"]
html_theme = "furo"
html_title = "Taxiway"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4  # the same anchors as on GitHub
# SQL with `$parameters` is more than the highlighter knows. Python and YAML are held to their grammar by tests/docs.
suppress_warnings = ["misc.highlighting_failure"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_mock_imports = ["ray", "mlflow", "great_expectations"]
default_role = "code"  # docstrings name things in single backticks
