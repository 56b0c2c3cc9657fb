"""What a method's YAML says of it: words that somebody reads, or a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from distill.config import load_node, options
from distill.config.about import ABOUT_KEYS, check_about

FINE = {"kind": "response", "taps": ["logits"], "phases": ["distill"], "teachers": 1}


@pytest.mark.parametrize(("about", "said"), [
    (None, "its YAML does not say what it reads"),
    ({**FINE, "taps": "logits"}, "its YAML does not say what it reads"),
    ({**FINE, "taps": ["logit"]}, "nothing reads 'logit' in about.taps of its YAML: did you mean logits"),
    ({**FINE, "protcol": {}}, "nothing reads 'protcol' in about of its YAML: did you mean protocol"),
    ({**FINE, "teachers": "one"}, "about.teachers of its YAML is one: 0, 1, 2, ..., or n"),
])  # fmt: skip
def test_what_nobody_reads_is_refused(about: Any, said: str) -> None:
    check_about({"name": "mine", "about": FINE})
    with pytest.raises(ValueError, match=f"method=mine: {said}"):
        check_about({"name": "mine", "about": about})


def test_every_key_is_one_that_some_method_has() -> None:
    assert set().union(*(load_node("method", name).about for name in options("method"))) == set(ABOUT_KEYS)
