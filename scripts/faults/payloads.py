"""Files that would run a command if anything of them were executed; and JSON that could end a reader."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any


class _Runs:
    """Pickled, a call of a function with arguments."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.what = (function, args)

    def __reduce__(self) -> Any:
        return self.what


def pickles(marker: Path) -> dict[str, bytes]:
    """Pickles that would make `marker` if they were loaded without care."""
    import os
    import subprocess

    touch = f"open({str(marker)!r}, 'w').close()"
    calls: dict[str, Any] = {
        "os.system": _Runs(os.system, f"touch {marker}"),
        "eval": _Runs(eval, touch),
        "exec": _Runs(exec, touch),
        "subprocess": _Runs(subprocess.check_call, ["touch", str(marker)]),
        "open": _Runs(open, str(marker), "w"),
        "getattr": _Runs(getattr, _Runs(__import__, "os"), "system"),
        "in a dictionary": {"data": _Runs(os.system, f"touch {marker}"), "labels": [0]},
        "in a list": [1, _Runs(eval, touch)],
        "beside a state": {"state_dict": {}, "epoch": _Runs(exec, touch)},
    }
    pairs = [(name, call, number) for name, call in calls.items() for number in (0, 2, 4)]
    found = {f"{name}, protocol {number}": pickle.dumps(call, number) for name, call, number in pairs}
    found["stacked"] = b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    found["built"] = b"(S'touch " + str(marker).encode() + b"'\nios\nsystem\n."
    return found


def torches(marker: Path) -> dict[str, bytes]:
    """Files of torch.save with the same payloads, in the old format and the new."""
    import io
    import os

    import torch

    found = {}
    for zipped in (True, False):
        for name, content in (
            ("alone", _Runs(os.system, f"touch {marker}")),
            ("in a state", {"state_dict": {"w": torch.zeros(1), "x": _Runs(exec, f"open({str(marker)!r}, 'w')")}}),
        ):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            found[f"torch, {name}, {'zip' if zipped else 'old'}"] = file.getvalue()
    return found


def yamls(marker: Path) -> dict[str, bytes]:
    """YAML that would run something through tags, targets or interpolations, or fill the memory."""
    touch = f"touch {marker}"
    levels = (f"a{k}: &a{k} [{','.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 7))
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(levels)
    return {
        "tag": f"method: !!python/object/apply:os.system ['{touch}']\n".encode(),
        "tag of a name": b"seed: !!python/name:os.system\n",
        "tag of an object": b"seed: !!python/object/new:os.system [1]\n",
        "target": f"method:\n  _target_: os.system\n  command: '{touch}'\n".encode(),
        "target in arguments": f"student:\n  args:\n    _target_: os.system\n    command: '{touch}'\n".encode(),
        "resolver": f"output: ${{oc.create:{{_target_: os.system, command: '{touch}'}}}}\n".encode(),
        "callback": f"hydra:\n  callbacks:\n    x:\n      _target_: os.system\n      command: '{touch}'\n".encode(),
        "logging": f"hydra:\n  job_logging:\n    handlers:\n      x: {{(): os.system, command: '{touch}'}}\n".encode(),
        "aliases": bomb.encode(),
        "cycle": b"teacher: &x\n  below: *x\n",
        "keys twice": b"seed: 1\nseed: 2\n",
        "deep": ("[" * 2000 + "]" * 2000).encode(),
        "tabs": b"seed:\t1\n\tx: 2\n",
        "list": b"- 1\n- 2\n",
        "number": b"3\n",
        "no text": b"\xff\xfe\x00",
        "two documents": b"seed: 1\n---\nseed: 2\n",
        "null": b"null\n",
        "colon": b"seed: : :\n",
    }


JSONS: dict[str, bytes] = {
    "empty": b"", "null": b"null", "list": b"[]", "text": b'"x"', "number": b"3", "object": b"{}", "true": b"true",
    "half": b'{"dataset": "digi', "NaN": b'{"accuracy": NaN}', "Infinity": b'{"accuracy": {"last": Infinity}}',
    "400 digits": b'{"accuracy": ' + b"9" * 400 + b"}", "5000 digits": b"9" * 5000,
    "huge exponent": b'{"images": 1e999}',
    "surrogate": b'{"method": "\\ud800"}', "escape": b'{"method": "\\u001b]0;x\\u0007"}', "nul": b'{"a": "\\u0000"}',
    "deep lists": b"[" * 100_000, "deep objects": b'{"a":' * 2000 + b"1" + b"}" * 2000, "twice": b'{"a": 1, "a": 2}',
    "latin": b'{"a": "\xff"}', "utf-16": '{"a": 1}'.encode("utf-16"), "bom": b"\xef\xbb\xbf{}", "trailing": b"{} {}",
    "comment": b"{} // x", "single quotes": b"{'a': 1}",
}  # fmt: skip


def misshapen(content: Any, chance: Any) -> bytes:
    """A JSON document of ours with one value, somewhere in it, of another kind."""
    wrong = [None, True, -1, 1.5, 10**400, "x", "", [], [1], {}, {"a": {}}, "\x1b[31m", "=1+1", "x" * 5000, 10**18]
    document = json.loads(json.dumps(content))
    node, key = chance.choice(list(_places(document)))
    node[key] = chance.choice(wrong)
    return json.dumps(document).encode()


def _places(node: Any) -> Any:
    for key in node if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])
