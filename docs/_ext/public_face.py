"""The directive `public-face`: documents every public name of `operators`, stage by stage, from the docstrings."""

from __future__ import annotations

import re
from inspect import cleandoc, isroutine
from itertools import groupby, takewhile
from typing import Any

from docutils import nodes
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from tools.spec_reference import sections

_FIELD = re.compile(r"^:param (\w+): (.*(?:\n[ \t]+\S.*)*)\n", re.M)
# What a reader looks for, in place of the name of the package; a stage that is not named here is shown by its package.
_TITLES = {
    "compute": "Ray",
    "registry": "MLflow",
    "validation": "Great Expectations",
    "core": "Specs",
    "errors": "Errors",
}
_ORDER = ["compute", "registry", "validation", "core", "gates", "rollout", "drills"]
_KINDS = ("operators", "decorators", "sensors", "triggers", "notifiers", "hook")
_MEMBERS = ("scope", "connection")  # what a DAG's author calls; Airflow calls the rest


class PublicFace(SphinxDirective):
    """List what `from operators import …` offers; a new public name appears by itself."""

    def run(self) -> list[nodes.Node]:
        """Return one section for each stage, and one for the errors of all."""
        import operators

        names = sorted(operators.__all__, key=lambda name: (*_place(name), name))
        text = "".join(
            f"## {_TITLES.get(stage, stage.capitalize())}\n\n" + "".join(_entry(name) for name in group)
            for stage, group in groupby(names, key=_stage)
        )
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _get(name: str) -> Any:
    import operators

    return getattr(operators, name)


def _module(name: str) -> str:
    import operators

    return operators._MODULE_OF[name]


def _stage(name: str) -> str:
    public = _get(name)
    is_error = isinstance(public, type) and issubclass(public, Exception)
    return "errors" if is_error else _module(name).split(".")[1]


def _place(name: str) -> tuple[bool, int, str, bool, int]:
    stage, module, public = _stage(name), _module(name).rpartition(".")[2], _get(name)
    known = _ORDER.index(stage) if stage in _ORDER else len(_ORDER)
    kind = _KINDS.index(module) if module in _KINDS else len(_KINDS)
    # What has headings of its own comes last: what follows would fall under them.
    return stage == "errors", known, stage, isinstance(public, type) and issubclass(public, BaseModel), kind


def _entry(name: str) -> str:
    public, address = _get(name), f"operators.{name}"
    if isroutine(public):
        return _directive("autofunction", address)
    if not isinstance(public, type):  # its docstring stands beside the assignment, which only its own module has
        return _directive("autodata", f"{_module(name)}.{name}", "   :no-value:\n")
    if issubclass(public, BaseModel):  # its fields say more than the signature that pydantic makes of them
        return sections(name, public, level=3).lstrip()
    if issubclass(public, Exception):
        return _directive("autoexception", address)
    shown = [member for member in _MEMBERS if hasattr(public, member)]
    return _directive("autoclass", address, f"   :members: {', '.join(shown)}\n" if shown else "")


def _directive(kind: str, address: str, options: str = "") -> str:
    return f"```{{eval-rst}}\n.. {kind}:: {address}\n{options}```\n\n"


def described_with(public: type) -> list[type]:
    """Return a class and those of its bases that have no entry of their own, so that its entry describes them, too."""
    import operators

    others = (
        base.__name__ in operators.__all__ or not base.__module__.startswith("operators.")
        for base in public.__mro__[1:]
    )
    return [
        public,
        *(base for base, _ in takewhile(lambda one: not one[1], zip(public.__mro__[1:], others, strict=True))),
    ]


def parameters_of(public: type) -> dict[str, str]:
    """Return what the docstrings say of each parameter of a class."""
    described: dict[str, str] = {}
    for base in described_with(public):
        fields = _FIELD.findall(cleandoc(base.__doc__ or "") + "\n")
        described |= {name: text for name, text in fields if name not in described}
    return described


def _with_parameters_of_bases(_: Sphinx, what: str, __: str, public: Any, ___: Any, lines: list[str]) -> None:
    """Show the parameters that a base describes, before those of the class itself."""
    if what != "class" or not isinstance(public, type):
        return
    own = {match for match, _ in _FIELD.findall("\n".join(lines) + "\n")}
    at = next((number for number, line in enumerate(lines) if line.startswith(":")), len(lines))
    for parameter, text in parameters_of(public).items():
        if parameter not in own:
            lines.insert(at, f":param {parameter}: {' '.join(text.split())}")
            at += 1


def _without_return_type(app: Sphinx, what: str, name: str, *_: Any) -> None:
    """What an operator returns is its task's XCom, not what its constructor is annotated with."""
    if what == "class":
        app.env.current_document.autodoc_annotations.get(name, {}).pop("return", None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("public-face", PublicFace)
    app.connect("autodoc-process-signature", _without_return_type, priority=900)
    app.connect("autodoc-process-docstring", _with_parameters_of_bases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
