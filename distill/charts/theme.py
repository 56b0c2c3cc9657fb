"""The colours of charts and pages, each for light and for dark, and the rules by which classes take them.

The eight of a series keep apart for colour-blind readers, and as text they have a contrast of 4.5 to 1 or more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

SERIES = 8
COLOURS: dict[str, tuple[str, str]] = {  # name: (on white, on black)
    "back": ("#ffffff", "#14171a"), "front": ("#1c2024", "#e6e9ec"), "soft": ("#5c6670", "#9aa5b0"),
    "line": ("#d9dee3", "#333a41"), "head": ("#f3f5f7", "#1e2327"), "link": ("#0b5cad", "#7ab8ff"),
    "good": ("#17692f", "#6fd08c"), "bad": ("#b3261e", "#ff8a80"), "over": ("#8a5a00", "#f0b94d"),
    "s0": ("#1f6fb4", "#6bb0f0"), "s1": ("#b84a05", "#ff9a4d"), "s2": ("#0f7a57", "#4fd1a5"),
    "s3": ("#b8327f", "#f487c3"), "s4": ("#6f55b5", "#b39df2"), "s5": ("#856100", "#e0bd4a"),
    "s6": ("#007a85", "#4dd0e1"), "s7": ("#8a4b3c", "#d69a8b"), "rest": ("#66707a", "#9aa3ac"),
    "alone": ("#1c2024", "#e6e9ec"), "teacher": ("#5c6670", "#9aa5b0"),
}  # fmt: skip
_KINDS = (*(f"s{index}" for index in range(SERIES)), "rest", "alone", "teacher")
_PLAIN = """
svg text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: SOFT; }
svg .axis { fill: FRONT; } svg .value { fill: FRONT; font-variant-numeric: tabular-nums; }
svg text.name { paint-order: stroke; stroke: BACK; stroke-width: 3px; stroke-linejoin: round; }
svg .onlight { fill: #111; } svg .ondark { fill: #fff; }
svg .frame { fill: none; stroke: LINE; }
svg line { stroke-width: 1.2; } svg .grid { stroke: LINE; stroke-width: 1; } svg .zero { stroke: FRONT; }
svg .thick { stroke-width: 5; opacity: .55; } svg .thin { stroke-width: 1.4; }
svg circle { stroke-width: 1.8; } svg .open { fill: BACK; }
svg .line { fill: none; stroke-width: 1.9; } svg .band { opacity: .15; } svg .pale { opacity: .35; }
svg .mark { stroke-width: 1.4; stroke-dasharray: 5 4; }
svg .mark.teacher { stroke-dasharray: 1.5 3.5; stroke-width: 2; }
svg .d1 { stroke-dasharray: 7 3; } svg .d2 { stroke-dasharray: 2 3; } svg .small { font-size: 10.5px; }
"""
OF_KIND = """svg .name.KIND, svg .band.KIND, svg .sure.KIND, svg rect.KIND { fill: COLOUR; }
svg line.KIND, svg .line.KIND, svg circle.KIND { stroke: COLOUR; } svg .line.KIND { fill: none; }
"""


def rules(colour: Callable[[str], str]) -> str:
    """The style sheet of charts; colour: how a colour of that name is written."""
    plain = _PLAIN
    for name in ("soft", "front", "line", "back"):
        plain = plain.replace(f": {name.upper()};", f": {colour(name)};")
    return plain + "".join(OF_KIND.replace("KIND", kind).replace("COLOUR", colour(kind)) for kind in _KINDS)


def of_page() -> str:
    """For a page: variables that follow its colour scheme, and the charts' rules by them."""
    pairs = (f"--{name}: light-dark({light}, {dark});" for name, (light, dark) in COLOURS.items())
    legend = (f".legend .{kind} {{ --c: var(--{kind}); }}" for kind in _KINDS)
    return f":root {{ {' '.join(pairs)} }}\n{rules(lambda name: f'var(--{name})')}{_lines(legend)}"


def of_file() -> str:
    """For a file of its own: colours by name for programs that know no variables, and those for dark."""
    dark = rules(lambda name: COLOURS[name][1])
    return f"{rules(lambda name: COLOURS[name][0])}@media (prefers-color-scheme: dark) {{ {dark} }}"


def kind(index: int | None) -> str:
    """The class of a colour's number; grey for those beyond the last."""
    return f"s{index}" if index is not None and index < SERIES else "rest"


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(parts)
