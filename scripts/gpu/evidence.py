"""Runs of a table on a GPU while there is time: `python scripts/gpu/evidence.py --limit 400 --out OUT -- OVERRIDES`.

The overrides are those of one `python -m distill -m hydra/launcher=packed` command. Runs go on from OUT's archive of
an earlier call (--resume), are stopped in time to save their state, and what they left is packed into
OUT/evidence.tar (rows, results, weights, checkpoints: the smallest files first) in four pieces of at most 15 MiB; every
minute too, for a call that is cut off itself. What does not fit, as the states of several runs of crd do not, is named,
and such a run begins anew. --rehearse is the dry run on the CPU (rehearse.py).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIECE, PIECES = 15 << 20, 4  # bytes of a file that may come back, and how many such files


def unpack(pieces: list[Path], folder: Path) -> None:
    """Put what an earlier call left where runs look for it."""
    if pieces:
        blob = b"".join(piece.read_bytes() for piece in sorted(pieces))
        with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
            archive.extractall(folder, filter="data")


def pack(folder: Path, out: Path, newest: int = 1) -> list[Path]:
    """Write what runs left as OUT/evidence.tar.00, .01, ...: of checkpoints the newest alone; no caches.

    Runs may go on meanwhile: a file is taken as it is at one moment, or not at all.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, size in wanted(folder, newest):
            if buffer.tell() + size + tarfile.RECORDSIZE > PIECES * PIECE:
                print(f"left out, {size / 2**20:.0f} MiB: {path.relative_to(folder)}", flush=True)
                continue
            add(archive, path, str(path.relative_to(folder)))
    blob = buffer.getvalue()
    pieces = []
    for number, start in enumerate(range(0, len(blob), PIECE)):
        pieces.append(out / f"evidence.tar.{number:02d}")
        new = out / f".{pieces[-1].name}"
        new.write_bytes(blob[start : start + PIECE])
        new.replace(pieces[-1])
    for old in set(out.glob("evidence.tar.*")) - set(pieces):
        old.unlink()
    return pieces


def wanted(folder: Path, newest: int) -> list[tuple[Path, int]]:
    """The files that are to be packed, with their sizes, the smallest first."""
    found: list[tuple[Path, int]] = []
    for path in sorted(folder.rglob("*")):
        newer = sorted(path.parent.glob("*.ckpt"))[-newest:] if path.suffix == ".ckpt" else [path]
        if path.suffix not in {".logits", ".embedding", ".lock"} and path in newer:
            with contextlib.suppress(OSError):  # gone meanwhile
                found += [(path, path.stat().st_size)] * path.is_file()
    return sorted(found, key=lambda pair: pair[1])


def add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    """Add a file to an archive, unless it goes away meanwhile."""
    try:
        data = path.read_bytes()
    except OSError:
        return
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(data), int(time.time())
    archive.addfile(entry, io.BytesIO(data))


def carried_out(sweep: subprocess.Popen[bytes], args: argparse.Namespace) -> int:
    """Wait for the runs, pack what there is every so often, and stop them at the limit; the sweep's exit code."""
    end = time.monotonic() + args.limit
    try:
        while (left := end - time.monotonic()) > 0:
            try:
                return sweep.wait(min(left, args.every))
            except subprocess.TimeoutExpired:
                if left > args.every:
                    pack(args.folder, args.out)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    sweep.send_signal(signal.SIGTERM)
    try:
        return sweep.wait(args.grace)
    except subprocess.TimeoutExpired:
        sweep.kill()
        return sweep.wait()


def stop(*_: object) -> None:
    """What a signal to this program does: the runs save their state, which is packed."""
    raise KeyboardInterrupt


def main() -> int:
    """Run, stop, pack; the exit code is the sweep's: 0 done, 75 to be gone on with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=400, help="seconds until runs are asked to save and stop")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--folder", type=Path, default=Path("/tmp/evidence"))
    parser.add_argument("--every", type=float, default=60, help="seconds after which what there is is packed")
    parser.add_argument("--grace", type=float, default=60, help="seconds in which runs are to have saved their state")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, every line but the kernels")
    parser.add_argument("--resume", type=Path, nargs="*", default=[], help="evidence.tar.* of an earlier call")
    parser.add_argument("overrides", nargs="+")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.folder.mkdir(parents=True, exist_ok=True)
    unpack(args.resume, args.folder)
    start = [str(ROOT / "scripts/gpu/rehearse.py")] * args.rehearse
    command = [sys.executable, *start, "-m", "distill", "-m", f"output={args.folder}", *args.overrides]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    started = time.monotonic()
    signal.signal(signal.SIGTERM, stop)
    with (args.out / "evidence.log").open("w") as log:
        code = carried_out(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log), args)
    pieces = pack(args.folder, args.out)
    rows = {str(path.parent.relative_to(args.folder)): last_epoch(path) for path in args.folder.rglob("metrics.jsonl")}
    (args.out / "evidence.json").write_text(json.dumps({"command": command, "code": code, "last": rows}, indent=1))
    print(f"exit code {code} after {time.monotonic() - started:.0f} s; {len(pieces)} pieces")
    for name, row in rows.items():
        print(name, row)
    return code


def last_epoch(path: Path) -> dict[str, object]:
    """The last epoch's row of a run."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return next((row for row in reversed(rows) if "test_accuracy" in row), {})


if __name__ == "__main__":
    sys.exit(main())
