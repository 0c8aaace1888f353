"""The project's documents as tests read them: headings, links and code, by the parser that also builds the pages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
_AT_THE_ROOT = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
_HTML_ADDRESS = re.compile(r"\b(?:src|href)=\"([^\"]+)\"")


@dataclass(frozen=True)
class Code:
    """A block of code, or code in a line of text.

    :param language: first word after the fence; empty for an indented block, and ``inline`` in a line of text
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    found = [ROOT / name for name in _AT_THE_ROOT if (ROOT / name).is_file()]
    return [*found, *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def tokens_of(page: Path) -> tuple[Token, ...]:
    return tuple(MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")))


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the address of each link and picture that leads into the project."""
    for token in tokens_of(page):
        line = (token.map or [0])[0] + 1
        inside = token.children or []
        addresses = [str(part.attrs[key]) for part in inside for key in ("href", "src") if key in part.attrs]
        html = [token.content] if token.type == "html_block" else [x.content for x in inside if x.type == "html_inline"]
        for address in (*addresses, *_HTML_ADDRESS.findall(" ".join(html))):
            if not re.match(r"[a-z][a-z0-9+.-]*:", address):
                yield line, address


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors that GitHub gives the headings of a page; Sphinx gives them the same."""
    seen: Counter[str] = Counter()
    found = set()
    for before, token in zip(tokens_of(page), tokens_of(page)[1:], strict=False):
        if before.type == "heading_open":
            text = "".join(part.content for part in token.children or [])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return frozenset(found)


def code(page: Path) -> Iterator[Code]:
    name = page.relative_to(ROOT).as_posix()
    for token in tokens_of(page):
        line = (token.map or [0])[0] + 1
        if token.type in ("fence", "code_block"):
            yield Code(name, line, token.info.partition(" ")[0], token.content)
        for part in token.children or []:
            if part.type == "code_inline":
                yield Code(name, line, "inline", part.content)
