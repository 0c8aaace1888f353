"""The directive `public-face`: documents every public name of `operators`, stage by stage, from the docstrings."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# What a reader looks for, in place of the name of the package; a stage that is not named here is shown by its package.
_TITLES = {"compute": "Ray", "registry": "MLflow", "validation": "Great Expectations", "core": "The spec"}
_MEMBERS = ("scope", "connection")  # what a DAG's author calls; Airflow calls the rest
_ORDER = ["compute", "registry", "validation", "gates", "rollout"]


class PublicFace(SphinxDirective):
    """List what `from operators import …` offers; a new public name appears by itself."""

    def run(self) -> list[nodes.Node]:
        """Return one section for each stage."""
        import operators

        names = {name: getattr(operators, name) for name in operators.__all__}
        by_stage = sorted(names, key=lambda name: (_place(_stage(names[name])), _kind(names[name]), name))
        text = "".join(
            f"## {_TITLES.get(stage, stage.replace('_', ' ').capitalize())}\n\n"
            + "".join(_entry(name, names[name]) for name in group)
            for stage, group in groupby(by_stage, key=lambda name: _stage(names[name]))
        )
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _stage(one: Any) -> str:
    return str(one.__module__).split(".")[1]


def _place(stage: str) -> tuple[int, str]:
    return (_ORDER.index(stage) if stage in _ORDER else len(_ORDER), stage)


def _kind(one: Any) -> int:
    kinds = ("operators", "decorators", "sensors", "triggers", "notifiers", "hook")
    module = str(one.__module__).rpartition(".")[2]
    return kinds.index(module) if module in kinds else len(kinds)


def _entry(name: str, one: Any) -> str:
    directive = "autoclass" if isinstance(one, type) else "autofunction"
    shown = [member for member in _MEMBERS if hasattr(one, member)]
    members = f"   :members: {', '.join(shown)}\n" if shown else ""
    return f"```{{eval-rst}}\n.. {directive}:: operators.{name}\n{members}```\n\n"


def _without_return_type(app: Sphinx, what: str, name: str, *_: Any) -> None:
    """What an operator returns is its task's XCom, not what its constructor is annotated with."""
    if what == "class":
        app.env.current_document.autodoc_annotations.get(name, {}).pop("return", None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("public-face", PublicFace)
    app.connect("autodoc-process-signature", _without_return_type, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
