"""Write a finished run's student as a folder that timm and the Hub load: config.json, model.safetensors, README.md."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import distill.config as config
import distill.finished_run as finished_run
from distill.export.facts import KEY
from distill.export.write import export_run


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may follow `distill export`."""
    add = parser.add_argument
    parser.epilog = (
        "Anywhere: timm.create_model('local-dir:FOLDER', pretrained=True), for our own nets after "
        "import distill.models.timm_registry. distill eval and distill predict take the folder, too."
    )
    add("run", metavar="RUN", help="a finished run, outputs/.../s<seed>")
    add("--to", type=Path, metavar="FOLDER", help="where to (default: RUN/export)")
    add("--onnx", action="store_true", help="an ONNX file besides, compared with the net and timed beside its teacher")
    add("--best", action="store_true", help="the student after its best epoch, not its last")
    add("--threads", type=int, metavar="N", help="CPU threads of the ONNX file's timing (default: 1)")


def run(options: argparse.Namespace) -> None:
    """Export, and say what was written. Raises ValueError as `write` does."""
    config.register()
    if options.threads is not None and not options.onnx:
        raise ValueError("--threads is of the timing of an ONNX file: add --onnx, or leave it away")
    threads = 1 if options.threads is None else options.threads
    if threads < 1:
        raise ValueError(f"--threads is {threads}: give at least 1")
    opened = finished_run.open_run(options.run)
    folder = options.to or opened.folder / "export"
    content = export_run(opened, folder, with_onnx=options.onnx, best=options.best, threads=threads)
    print("\n".join(_metadata(folder, content)))


def _metadata(folder: Path, content: dict[str, Any]) -> list[str]:
    metadata = content[KEY]
    name, bits = content.get("architecture", metadata["facts"]["student"]), metadata["facts"]["bits"]
    lines = [f"wrote {folder}: {name}{f', {bits}' if bits else ''}, {content['num_classes']} classes"]
    if "timm" in metadata:
        lines.append(f"  timm loads it: logits differ by {metadata['timm']['difference']:.1e} at most")
    if onnx := metadata.get("onnx"):
        lines.append(f"  {onnx['file']}: logits differ by {onnx['difference']:.1e} at most, of {onnx['largest']:.1f}")
        lines.append(f"  {onnx['milliseconds']:.3f} ms an image, {onnx['threads']} thread(s)")
        for name, taught in onnx["teachers"].items():
            lines.append(f"  teacher {name}: {taught if isinstance(taught, str) else f'{taught:.3f} ms'}")
    return lines
