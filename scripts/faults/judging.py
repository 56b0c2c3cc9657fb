"""What counts as an answer: done, or one sentence and an exit code that the program documents."""

from __future__ import annotations

from distill import errors
from distill.terminal import printable
from scripts.faults.forked import Outcome

LONGEST = 450  # letters of a sentence
PATIENCE = 150.0  # seconds that an answer may take, on a machine that others use too
ENDS = (errors.USAGE, errors.NONFINITE, errors.NO_CHECKPOINT)


def sentence_is_wrong(text: str) -> str:
    """What is wrong with a message as one sentence; empty where nothing is."""
    if not text.strip():
        return "it says nothing"
    if "\n" in text.strip():
        return f"it says several lines: {text[:200]!r}"
    if len(text) > LONGEST:
        return f"it says {len(text)} letters: {text[:200]!r}"
    if printable(text) != text:
        return f"it hands control characters on: {text[:200]!r}"
    return f"it shows what only Python means: {text[:200]!r}" if " object at 0x" in text else ""


def answer_is_wrong(ended: Outcome, ends: tuple[int, ...] = ENDS) -> str:
    """What is wrong with how a command ended; empty where it is done, or refused in one sentence."""
    if ended.hung:
        return f"no answer in {ended.seconds:.0f} s"
    if "Traceback (most recent call last)" in ended.said:
        return f"exit code {ended.code} and a traceback: {ended.said[-300:]!r}"
    if ended.code in (errors.DONE, errors.STOPPED):  # 75: it trained until the harness stopped it
        return ""
    if ended.code not in ends:
        return f"exit code {ended.code}: {(ended.sentence or ended.said)[-300:]!r}"
    said = [line for line in ended.said.splitlines() if line.startswith("distill: ")]
    return sentence_is_wrong(ended.sentence) if len(said) == 1 else f"{len(said)} sentences: {ended.said[-300:]!r}"
