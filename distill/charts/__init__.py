"""Charts as SVG text, drawn for a width in pixels; their colours come from classes that theme.css sets.

A page holds each chart twice, wide and narrow, and shows the one that fits, so that text keeps its size on a phone.
"""

from distill.charts.curves import Curve, curves
from distill.charts.marks import Mark
from distill.charts.ranked import Dot, ranked
from distill.charts.scatter import Point, scatter
from distill.charts.svg import PHONE_WIDTH, WIDE, Drawing, both

__all__ = ["PHONE_WIDTH", "WIDE", "Curve", "Dot", "Drawing", "Mark", "Point", "both", "curves", "ranked", "scatter"]
