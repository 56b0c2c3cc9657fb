"""The HTML report: one file with everything in it, which opens from a disk or a mail without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from distill.charts import theme
from distill.report.figures import ChartSet, Figure
from distill.report.table import Document


def render(
    document: Document, figures: Mapping[str, ChartSet], sections: Mapping[str, Sequence[Figure]] | None = None
) -> str:
    """The document's tables, with the figures of those of a key above them, then sections of figures by their titles.

    Everything that comes from a file is escaped.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_asset("page.html.j2"))
    return template.render(
        document=document,
        figures=figures,
        nothing=ChartSet([], []),
        sections=sections or {},
        style=Markup(theme.of_page() + _asset("page.css")),
        script=Markup(_asset("page.js")),
    )


def _asset(name: str) -> str:
    return files("distill.report").joinpath("assets", name).read_text(encoding="utf-8")
