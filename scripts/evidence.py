"""`make evidence HOURS=2`: the next missing runs behind published numbers, and the page of what came out.

The queue is scripts/evidence.yaml. What is done is never run again, what was cut off goes on, runs that can share a
process do, and whatever the hours leave undone is next time's first. Results, short curves, hardware, versions and
commands are written to outputs/reference/tables/<table>/, all verdicts to outputs/reference/tables/README.md.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import evidence_page as page  # noqa: E402
import evidence_readme  # noqa: E402

from distill import config, papers  # noqa: E402
from distill.run_folder import RunFolder  # noqa: E402
from distill.teachers import bundled  # noqa: E402

TABLES = ROOT / "outputs" / "reference" / "tables"
README = ROOT / "README.md"
KINDS = ("cpu", "cuda")
BIGGEST = 10 << 20  # bytes of a teacher that is kept
STOPPED = 75  # distill's exit code where a signal has stopped a run and its state is saved


@dataclass(frozen=True)
class Run:
    """One run of the queue.

    measures: {key of result.json: published number, or it and its standard error}; hours: [CPU, GPU], an estimate.
    """

    cell: str
    overrides: tuple[str, ...]
    seed: int
    measures: Mapping[str, float | list[float]]
    hours: Sequence[float]
    pack: str = ""  # runs with the same words here, in one block, run side by side
    keep: bool | str = False  # a teacher: its weights are kept for everybody, if small; "best": its best epoch's, too

    @property
    def words(self) -> list[str]:
        """The command line, less where results lie."""
        return [*self.overrides, f"seed={self.seed}"]


def queue(path: Path = ROOT / "scripts" / "evidence.yaml") -> dict[str, Any]:
    """The queue as it stands in its file."""
    read: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return read


def runs(block: Mapping[str, Any]) -> list[Run]:
    """All runs of a block, in the order in which they are taken; none of one that is blocked."""
    if block.get("blocked"):
        return []
    return list(_of_paper(block) if "paper" in block else _of_cells(block))


def _of_cells(block: Mapping[str, Any]) -> Iterator[Run]:
    """Every cell's first seed before any cell's second."""
    cells = block["cells"]
    for turn in range(max(len(cell["seeds"]) for cell in cells.values())):
        for name, cell in cells.items():
            if turn < len(cell["seeds"]):
                words = tuple(flat([*block.get("common", []), *cell["overrides"]]))
                keep = turn == 0 and cell.get("keep", False)
                seed, pack = cell["seeds"][turn], f"{cell['pack']} {cell['seeds'][turn]}" if "pack" in cell else ""
                yield Run(name, words, seed, cell.get("measures", {}), cell["hours"], pack, keep)


def _of_paper(block: Mapping[str, Any]) -> Iterator[Run]:
    """A published table pair by pair: the teacher; one seed of the methods to begin with, then of the others; seeds."""
    table = papers.table(block["paper"])
    names = [f"{pair.teacher}_{pair.student}".replace("_cifar_", "_") for pair in table.pairs]
    for number in sorted(range(len(names)), key=lambda k: names[k] != block["first"]):
        pair, name = table.pairs[number], names[number]
        published = {method: table.value(method, number) for method in table.methods}
        values = {"none": pair.student_acc, **{key: value.mean for key, value in published.items() if value}}
        title, net = f"{pair.teacher} → {pair.student}", name.split("_" + pair.student)[0]
        teacher = (*block["common"], f"student={net}", "method=none")
        alone = {"accuracy.last": float(pair.teacher_acc or 0)}
        yield Run(f"{title}, teacher", teacher, 0, alone, block["hours"], keep=True)
        for seed in block["seeds"]:
            for method in sorted(values, key=lambda one: one not in block["begin"]):
                words = (*block["common"], f"pair={name}", f"method={table.ours(method)}")
                measures = {"accuracy.last": float(values[method] or 0)}
                batch = f"{name} {seed} {method in block['begin']}"
                yield Run(f"{title}, {method}", words, seed, measures, block["hours"], batch)


def flat(words: Sequence[Any]) -> Iterator[str]:
    """Overrides that lists within lists (YAML's anchors) hold."""
    for word in words:
        yield from flat(word) if isinstance(word, list) else [str(word)]


def composed(words: Sequence[str], output: Path) -> DictConfig:
    """The configuration of a command line. Raises what Hydra does for words that it does not know."""
    config.register()
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return compose("config", [*words, f"output={output}"])


@cache
def identity(overrides: tuple[str, ...], output: Path) -> tuple[str, Path]:
    """The hash of runs and the folder of their seeds."""
    found = config.identity(composed(overrides, output))
    return found["hash"], Path(found["folder"]).parent


def place(run: Run, output: Path) -> tuple[str, Path]:
    """A run's hash and its folder."""
    digest, seeds = identity(run.overrides, output)
    return digest, seeds / f"s{run.seed}"


def missing(block: Mapping[str, Any], output: Path) -> list[Run]:
    """The runs of a block that are neither done here nor recorded, each folder once."""
    rows = page.rows_of(TABLES / block["table"])
    recorded = {(row["hash"], row["seed"]) for row in rows if row["state"] == page.DONE}
    left: dict[Path, Run] = {}
    for run in runs(block):
        digest, folder = place(run, output)
        if not RunFolder(folder).done and (digest, run.seed) not in recorded:
            left.setdefault(folder, run)
    return list(left.values())


def steps(left: Sequence[Run], whole: Sequence[Run]) -> list[list[Run]]:
    """What is started together of `left`: those of one pack of `whole`, everything else by itself.

    What is left of a pack is a sweep where it is all combinations of its values; else the whole pack is started, and
    the launcher leaves out what is done.
    """
    keyed = groupby(enumerate(whole), key=lambda pair: pair[1].pack or pair[0])
    groups = [[run for _, run in group] for _, group in keyed]
    chosen = [(group, [run for run in group if run in left]) for group in groups]
    return [mine if is_sweep(mine) else group for group, mine in chosen if mine]


def swept(step: Sequence[Run]) -> dict[str, list[str]]:
    """The values of each key of some runs' command lines, in order."""
    values: dict[str, dict[str, None]] = {}
    for run in step:
        for word in run.words:
            values.setdefault(word.partition("=")[0], {})[word.partition("=")[2]] = None
    return {key: list(found) for key, found in values.items()}


def is_sweep(step: Sequence[Run]) -> bool:
    """Whether runs are all combinations of their keys' values."""
    return math.prod(map(len, swept(step).values())) == len(step)


def command(step: Sequence[Run], output: Path) -> list[str]:
    """The command line of a step: one run, or a packed sweep over what sets several apart."""
    start = [sys.executable, "-m", "distill", f"output={output}"]
    if len(step) == 1:
        alone = ["hydra.mode=RUN"] if any(word.startswith("experiment=") for word in step[0].words) else []
        return [*start, *step[0].words, *alone]
    return [*start, "-m", "hydra/launcher=packed", *(f"{key}={','.join(v)}" for key, v in swept(step).items())]


def execute(argv: Sequence[str], log: Path, seconds: float) -> int:
    """Run a command for at most so long; it is then asked to save and stop. Returns its exit code.

    It is asked so too where KeyboardInterrupt ends the wait, which is raised again when the command has ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with log.open("a") as file:
        process = subprocess.Popen(list(argv), cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            return process.wait(max(seconds, 1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise


def work(names: Sequence[str], hours: float, output: Path) -> int:
    """Run steps until the time is over; what fails is told and left. Returns how many failed."""
    blocks, end, failed = queue()["blocks"], time.monotonic() + 3600 * hours, 0
    for name in names:
        for step in steps(missing(blocks[name], output), runs(blocks[name])):
            if time.monotonic() > end:
                return failed
            print(f"{name}: {', '.join(run.cell for run in step)}, seed {step[0].seed}", flush=True)
            code = execute(command(step, output), output / "evidence.log", end - time.monotonic())
            write([name], output)
            if code not in (0, STOPPED):
                failed += 1
                print(f"  exit code {code}: see {output / 'evidence.log'}", flush=True)
    return failed


def keep(run: Run, output: Path) -> Path | None:
    """Keep a finished teacher where every checkout finds it (distill.teachers.bundled). Returns where, or None."""
    folder = RunFolder(place(run, output)[1])
    if not run.keep or not folder.done or folder.student.stat().st_size > BIGGEST:
        return None
    spec = replace(config.resolve(composed(run.words, output)), folder=folder.path)
    best = run.keep == "best"
    return None if bundled.is_bundled(spec, best=best) else bundled.bundle(spec, best=best)


def write(names: Sequence[str], output: Path) -> None:
    """Record what is there of these blocks, and write the page of all."""
    read = queue()
    for block in (read["blocks"][name] for name in names):
        page.record(TABLES / block["table"], [(run, *place(run, output)) for run in runs(block)], block.get("of"))
        for run in runs(block):
            keep(run, output)
    blocks = [read["blocks"][name] for name in dict.fromkeys([*read["order"]["cpu"], *read["order"]["cuda"]])]
    text = page.page([(block, runs(block)) for block in blocks], TABLES, lambda run: place(run, output)[0])
    TABLES.mkdir(parents=True, exist_ok=True)
    (TABLES / "README.md").write_text(text, encoding="utf-8")
    evidence_readme.put(README, text)


def show(names: Sequence[str], kind: str, output: Path) -> None:
    """Print the queue: each cell with its cost and state."""
    for name in names:
        block = queue()["blocks"][name]
        left = {(run.cell, run.seed) for run in missing(block, output)}
        print(f"{name}: {block['title']}" + (f" (cannot run: {block['blocked']})" if block.get("blocked") else ""))
        for cell in dict.fromkeys(run.cell for run in runs(block)):
            mine = [run for run in runs(block) if run.cell == cell]
            todo = [run for run in mine if (cell, run.seed) in left]
            hours = sum(run.hours[KINDS.index(kind)] for run in todo)
            print(f"  {len(mine) - len(todo)} of {len(mine)} done, about {hours:.1f} h left  {cell}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run, list, or write the page alone. Exit code 1 where a run has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0, help="how long to go on (default: 1)")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs", help="where runs lie")
    parser.add_argument("--table", nargs="*", help="these blocks of scripts/evidence.yaml alone")
    parser.add_argument("--list", action="store_true", help="print the queue with cost and state")
    parser.add_argument("--write", action="store_true", help="write results and the page from what is there")
    args = parser.parse_args(argv)
    kind = machine()
    names = args.table or queue()["order"][kind]
    if unknown := sorted(set(names) - set(queue()["blocks"])):
        parser.error(f"there is no table {unknown[0]}: choose from {', '.join(queue()['blocks'])}")
    output = args.output.absolute()
    if args.list:
        show(names, kind, output)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the run is stopped with the queue
    try:
        failed = 0 if args.write else work(names, args.hours, output)
    except KeyboardInterrupt:
        print("evidence: stopped; the state of what ran is saved, and the same command goes on", file=sys.stderr)
        return STOPPED
    write(names, output)
    return 1 if failed else 0


def machine() -> str:
    """cuda or cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    sys.exit(main())
