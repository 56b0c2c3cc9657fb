"""JSON that others may have written, or damaged."""

from __future__ import annotations

import json
import re
from typing import Any

_DEEPEST = 30
_BEYOND = "it holds a number beyond 64 bits"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class _NotJson(ValueError):
    """What JSON does not allow, though Python reads it."""


def parse_json(text: bytes | str) -> Any:
    """The content of a JSON text, to be trusted no more than who wrote it: what could end a reader is refused.

    That is NaN and Infinity, which JSON lacks, a key that comes twice, numbers beyond 64 bits, text that is no Unicode
    or holds control characters, and more than DEEPEST levels. Raises ValueError, the end of a sentence.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode()
        content = json.loads(decoded, object_pairs_hook=_without_doubles, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise ValueError("it is no text in UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON from line {error.lineno} on") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except _NotJson:
        raise
    except ValueError as error:  # thousands of digits
        raise ValueError(_BEYOND) from error
    if strange := _not_json(content):
        raise ValueError(strange)
    return content


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _NotJson("it holds a key twice")
    return found


def _no_number(name: str) -> Any:
    raise _NotJson(f"it holds {name}, which is no number")


def _not_json(content: Any) -> str:
    """What is wrong with the content of a JSON text; empty where nothing is. Rows of runs are parsed by the million."""
    level = [content]
    for _ in range(_DEEPEST):
        if not level:
            return ""
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += one.keys()
                below += one.values()
            elif isinstance(one, list):
                below += one
            elif isinstance(one, str):
                if not one.isprintable() and _CONTROL.search(one):
                    return "it holds control characters or text that is no Unicode"
            elif one is not None and not -(2.0**63) <= one < 2.0**64:
                return _BEYOND
        level = below
    return "it is nested too deeply"
