"""The campaign of faults: what it counts as survived, and that its calls add up."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from scripts.faults import payloads
from scripts.faults.forked import Outcome
from scripts.faults.judging import answer_is_wrong, sentence_is_wrong
from scripts.faults.ledger import Ledger, Try
from scripts.faults.shapes import difference, fingerprint, litter

WHOLE = '{"dataset": "d", "student": "s", "method": "m", "accuracy": {"last": 50.0}, "seconds": 3.0}'


@pytest.mark.parametrize(
    ("code", "said", "wrong"),
    [
        (0, "", ""),
        (2, "distill: there is no method 'x'\n", ""),
        (2, "", "0 sentences"),
        (2, "distill: a\ndistill: b\n", "2 sentences"),
        (2, "distill: \x1b[31m\n", "control characters"),
        (1, "distill: it failed\n", "exit code 1"),
        (2, "Traceback (most recent call last)\ndistill: x\n", "a traceback"),
        (-9, "", "exit code -9"),
    ],
)
def test_an_answer_is_one_sentence_with_a_code_of_its_own(code: int, said: str, wrong: str) -> None:
    found = answer_is_wrong(Outcome(code, said, 1.0))
    assert wrong in found if wrong else found == ""


def test_a_sentence_is_short_and_in_words() -> None:
    assert sentence_is_wrong(1000 * "x") and sentence_is_wrong("<f object at 0x7f>") and not sentence_is_wrong("fine")


def test_calls_add_up_and_what_failed_is_tried_again(tmp_path: Path) -> None:
    first = Ledger(tmp_path)
    first.add(Try("kills", 0, "one phase", True, counts={"kills": 3}))
    first.add(Try("kills", 1, "search", False, "it differs", "python -m distill"))
    again = Ledger(tmp_path)
    assert again.next("kills") == 2 and again.summary()["campaigns"]["kills"]["failures"] == [
        {"what": "search", "why": "it differs", "command": "python -m distill"}
    ]
    assert again.forget_failures({"kills"}) == [("kills", 1)]
    again.add(Try("kills", 1, "search", True, counts={"kills": 2}))
    found = Ledger(tmp_path).summary()["campaigns"]["kills"]
    assert (found["tries"], found["survived"], found["kills"], found["failures"]) == (2, 2, 5, [])
    assert "| kills | 2 | 2 | 5 kills |" in again.write("make faults").read_text()


def test_the_tries_of_several_machines_add_up(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Ledger(tmp_path / name).add(Try("kills", 0, "one phase", True, counts={"kills": 3}))
    both = Ledger(tmp_path / "a")
    both.take(tmp_path / "b")
    assert [one.number for one in both.tries] == [0, 1] and both.summary()["campaigns"]["kills"]["kills"] == 6


def test_two_runs_are_alike_but_for_their_times(tmp_path: Path) -> None:
    for name, seconds in (("a", 3.0), ("b", 4.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(json.loads(WHOLE) | {"seconds": seconds}))
        (tmp_path / name / "student.safetensors").write_bytes(b"1")
    one, other = fingerprint(tmp_path / "a"), fingerprint(tmp_path / "b")
    assert difference(one, other) == "" and litter(tmp_path) == []
    (tmp_path / "b" / "student.safetensors").write_bytes(b"2")
    (tmp_path / "b" / ".x.tmp").touch()
    assert "student.safetensors" in difference(one, fingerprint(tmp_path / "b")) and litter(tmp_path) == ["b/.x.tmp"]


def test_the_payloads_do_run_where_nobody_takes_care(tmp_path: Path) -> None:
    marker = tmp_path / "RAN"
    for name, content in payloads.pickles(marker).items():
        if name.startswith(("os.system", "exec", "stacked", "in a list")):
            pickle.loads(content)
            assert marker.exists(), name
            marker.unlink()
