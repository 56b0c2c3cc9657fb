"""What every method owes several processes: what it keeps is equal on all of them before each evaluation.

One pair of gloo processes trains all methods of conf/method, one after the other, and writes what each process holds.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from distill import parallel
from distill.method import Method, refuse
from tests import program, tiny

ALONE = ("cmi", "deepinversion")
MORE = ["kdcl method.variant=general", "crd uneven", "ps-kd uneven"]
RUNS = [*tiny.METHODS, *MORE]
PORT = str(40000 + os.getpid() % 20000)


def kept(method: Method) -> dict[str, float]:
    """A sum of each buffer, but for running statistics of BatchNorms, which are not synchronized here."""
    norms = {id(b) for m in method.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) for b in m.buffers()}
    return {name: summed(value) for name, value in method.named_buffers() if id(value) not in norms}


def called(method: Method) -> list[int]:
    """Will hold which BatchNorms are called in train mode, in order: where all processes would meet."""
    order: list[int] = []
    nets = (method, *method.teachers)
    norms = [m for net in nets for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for number, norm in enumerate(norms):
        norm.register_forward_pre_hook(lambda m, _, number=number: order.append(number) if m.training else None)
    return order


def summed(value: torch.Tensor) -> float:
    weights = torch.arange(1, value.numel() + 1, dtype=torch.float64)  # so that order counts
    return (value.detach().double().flatten().nan_to_num(posinf=1e6, neginf=-1e6) * weights).sum().item()


def settings(run: str) -> tuple[list[str], int]:
    """The method of a run with its overrides, and the size of its batches."""
    words = run.split()
    return [word for word in words if word != "uneven"], 5 if "uneven" in words else 8


def train(name: str, folder: Path) -> dict[str, Any]:
    """Train a method; what it keeps at the end of each epoch, before the first process's buffers are copied."""
    data, found = tiny.tiny_data(images=14), []  # two batches
    (name, *overrides), size = settings(name)
    method = tiny.seeded_method(name, data, tiny.SMALLEST, *overrides)
    refuse(method, name, {}, parallel.world())
    order = called(method)
    if parallel.rank():
        torch.manual_seed(100)  # as run.py has it: each process has draws of its own
    fit = tiny.fit(method, data, folder)
    fit.schedule, fit.source = replace(fit.schedule, epochs=1), data.source(batch_size=size, seed=1)
    after = method.after_epoch

    def noted() -> None:
        after()
        found.append(kept(method))

    method.after_epoch, fit.evaluate, fit.save = noted, lambda _: 0.0, lambda **how: True  # type: ignore[method-assign]
    for _ in fit.steps():
        pass
    weights = [summed(p) for p in method.parameters()]
    return {"buffers": found, "weights": weights, "norms": [] if method.unsynced else order}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    parallel.start("cpu")
    dist.all_gather_object = None  # nothing is pickled in a step
    found: dict[str, Any] = {}
    for number, name in enumerate(RUNS):
        try:
            found[name] = train(name, folder / str(number))
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"}
    (folder / f"{parallel.rank()}.json").write_text(json.dumps(found))


def ranks(folder: Path) -> list[dict[str, Any]]:
    """What two processes found, {run: {buffers, weights}} each."""
    for run in RUNS:
        tiny.of_method(*settings(run)[0])  # composed for both
    jobs = []
    for rank in range(2):
        env = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": PORT}
        jobs.append(program.start(str(folder), module="tests.test_parallel_contract", env=env))
    said = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def wrong(name: str, first: dict[str, Any], second: dict[str, Any]) -> str | None:
    """What is wrong with a run, of which two processes hold these."""
    error = first.get("error") or second.get("error")
    if name in ALONE:
        return None if f"method={name} cannot be shared by 2 processes" in str(error) else "is to be refused"
    if error:
        return str(error)
    for mine, other in zip(first["buffers"], second["buffers"], strict=True):
        if apart := [key for key in mine if mine[key] != other[key]]:
            return f"buffers that differ: {apart}"
    if first["norms"] != second["norms"]:
        return "other BatchNorms are called, which sync_batchnorm would wait for in vain: say so in `unsynced`"
    return None if first["weights"] == second["weights"] else "weights differ"


def test_banks_and_weights_are_equal_on_two_processes(tmp_path: Path) -> None:
    """One test for all, since one pair of processes serves all."""
    first, second = ranks(tmp_path)
    failed = {name: why for name in RUNS if (why := wrong(name, first[name], second[name]))}
    assert not failed, "\n".join(f"{name}: {why}" for name, why in failed.items())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
