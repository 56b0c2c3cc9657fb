"""The HTML report: one file with everything in it, which opens from a disk or a mail without a network."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from distill.report.figures import Section, sections
from distill.report.summary import Row
from distill.report.table import Document


def page(document: Document, rows: Sequence[Row]) -> str:
    """The document's tables, and figures of `rows`."""
    return render(document, sections(rows))


def render(document: Document, figures: Sequence[Section]) -> str:
    """The document's tables, and sections of figures. Everything that comes from a file is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_asset("page.html.j2"))
    return template.render(
        document=document,
        sections=figures,
        style=Markup(_asset("page.css")),
        script=Markup(_asset("page.js")),
    )


def _asset(name: str) -> str:
    return files("distill.report").joinpath("assets", name).read_text(encoding="utf-8")
