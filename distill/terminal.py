"""What is printed: never the end of a run, and never an instruction to the terminal that others have written."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

_Item = TypeVar("_Item")
OFTEN, _PATIENCE = 3.0, 2.0  # seconds between two lines on what takes long, and before the first

# all that moves the cursor, colours, rings or renames a window; and what turns the direction of text round
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of one


def printable(text: str) -> str:
    """Foreign text with its control characters written out, as \\x1b; line breaks and tabs stay."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def cell(value: Any) -> Any:
    """A value for a table of comma-separated values: text that would be a formula begins with an apostrophe."""
    return "'" + value if isinstance(value, str) and value.startswith(FORMULA) else value


def counted(items: Iterable[_Item], total: int, words: str) -> Iterator[_Item]:
    """The items; where they take long, how many there have been is told to standard error."""
    began = shown_at = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - shown_at > OFTEN and now - began > _PATIENCE:
            print(f"distill: {done} of {total} {words}", file=sys.stderr, flush=True)
            shown_at = now
        yield item


class SafeStream:
    """A text stream whose writes never fail: what a full disk refuses is not shown, nor what a closed pipe does."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Show a text, or not; returns its length."""
        try:
            self.stream.write(text)
        except BrokenPipeError:
            self._output_closed()
        except (OSError, ValueError):  # ValueError: it was closed
            pass
        except UnicodeError:  # a terminal that knows fewer letters
            self.write(text.encode("ascii", "backslashreplace").decode())
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Show several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what was written, if that can be."""
        try:
            self.stream.flush()
        except BrokenPipeError:
            self._output_closed()
        except (OSError, ValueError):
            pass

    def _output_closed(self) -> None:
        """What read the output, such as `head`, has seen enough: the rest goes nowhere."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def last() -> None:
    """Let nothing that cannot be printed end this process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, SafeStream):
            setattr(sys, name, SafeStream(stream))
