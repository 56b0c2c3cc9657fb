"""The model card of an exported folder: where the net comes from, what it is worth, how to use it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.config.our_nets import OUR_NETS
from distill.config.run_spec import RunSpec, TeacherSpec
from distill.export.facts import LAST, SQUASH, Facts
from distill.finished_run import FinishedRun
from distill.record.progress import clock
from distill.result import Result

NOT_STATED = "not stated"


def card(run: FinishedRun, facts: Facts, file: str | None, measured: Mapping[str, Any]) -> str:
    """The text of README.md. file: what timm loads, or what holds a quantised net; measured: of the ONNX file."""
    title = f"{facts.student}, {run.result.method} on {run.result.dataset}"
    parts = [_front(facts), f"# {_md(title)}", _origin(run), _table(_rows(run, facts, measured))]
    parts += ["## Use", *_use(facts, file, measured), "## Command", f"```\n{run.result.command or NOT_STATED}\n```"]
    return "\n\n".join(parts) + "\n"


def _front(facts: Facts) -> str:
    """What the Hub reads; the licence is left to who publishes the net."""
    library = ["library_name: timm"] if facts.model and not facts.bits else []
    task = "image-classification" if facts.classes else "image-feature-extraction"
    tags = [task, "knowledge-distillation"]
    return "\n".join(["---", *library, f"pipeline_tag: {task}", "tags:", *(f"- {t}" for t in tags), "---"])


def _origin(run: FinishedRun) -> str:
    result = run.result
    taught = f"distilled from {result.teacher} by {result.method}" if result.teacher else "trained without a teacher"
    paper = (run.spec.method.node.get("about") or {}).get("paper")
    return f"A {_md(result.student)} that was {_md(taught)}{f' ({_md(str(paper))})' if paper else ''}."


def _rows(run: FinishedRun, facts: Facts, measured: Mapping[str, Any]) -> dict[str, Any]:
    result = run.result
    on = f"{result.evaluated_on} of {result.dataset}"
    rows = {
        f"accuracy, {on}": f"{facts.accuracy:.2f} % ({facts.weights})" if facts.accuracy is not None else None,
        "teacher": result.teacher,
        f"teacher's accuracy, {on}": f"{result.teacher_accuracy:.2f} %"
        if result.teacher_accuracy is not None
        else None,
        "licence of the teacher": "; ".join(licences(run)) if result.teacher else None,
        "licence of the weights that it began with": own_terms(run.spec),
        "data": ", ".join([result.dataset, *result.setting]),
        "protocol": f"{result.protocol}, {result.epochs} epochs, seed {result.seed}",
        "departs from its paper": result.document.get("departs"),
        "parameters": f"{result.params:,}" if result.params else None,
        "multiply-accumulates an image": f"{result.macs / 1e6:.1f} M" if result.macs else None,
        "bits": facts.bits,
        "trained in": _trained_in(result) if result.seconds else None,
        "images": f"{' x '.join(map(str, facts.shape))}, mean {_numbers(facts.mean)}, std {_numbers(facts.std)}"
        + (f", {facts.border} black pixels on each side" if facts.border else ""),
        "what the net sees of them": facts.view,
        **_of_features(run, best=facts.weights != LAST),
        "classes": f"{len(facts.classes)}, in the order of label names in config.json"
        if facts.classes
        else "none: a backbone, which gives features",
    }
    return {**rows, **_of_onnx(measured)}


def _trained_in(result: Result) -> str:
    beside = f", in turn with {result.packed - 1} other runs" if result.packed else ""
    return f"{clock(result.seconds or 0)} on {result.device}, {result.precision}{beside}"


def _of_features(run: FinishedRun, best: bool) -> dict[str, str | None]:
    """What the features of these weights are worth: those of the best epoch were measured where neighbours chose it."""
    knn, probe = run.result.knn, None if best else run.result.linear_probe
    near = None if knn is None or (best and knn.best_epoch is None) else knn.best if best else knn.last
    named = {"nearest neighbours on its features": near, "linear probe of its features": probe}
    return {name: None if value is None else f"{value:.2f} %" for name, value in named.items()}


def _of_onnx(measured: Mapping[str, Any]) -> dict[str, Any]:
    if not measured:
        return {}
    taught = {f"latency of the teacher {name}": value for name, value in measured["teachers"].items()}
    return {
        "ONNX beside the net": f"{measured['difference']:.1e} at most, of logits up to {measured['largest']:.1f}",
        "latency in onnxruntime": f"{measured['milliseconds']:.3f} ms an image, {measured['threads']} CPU thread(s)",
        **{key: value if isinstance(value, str) else f"{value:.3f} ms" for key, value in taught.items()},
    }


def licences(run: FinishedRun) -> list[str]:
    """What is known of the terms under which each net stands that the student learned from."""
    return [f"{spec.name}: {_licence(spec)}" for spec in run.spec.teachers]


def _licence(spec: TeacherSpec) -> str:
    if spec.training:
        return f"trained by this program on the same data, {' and '.join(_terms(spec.training)) or 'no other terms'}"
    if spec.weights == "none":
        return "untrained"
    return _of_timm(spec.model) if spec.pretrained else f"{NOT_STATED} in its file"


def own_terms(trained: RunSpec) -> str | None:
    """The terms of the weights that a run's student began with; None where it began with none of others."""
    start = trained.student
    if start.pretrained:
        return f"from timm's weights ({_of_timm(start.model)})"
    return f"from a file's weights ({NOT_STATED} there)" if start.weights else None


def _terms(training: RunSpec) -> list[str]:
    """What a net that was trained here takes its terms from: the weights that it began with, and its own teachers."""
    start = own_terms(training)
    return ([start] if start else []) + [f"by {each.name} ({_licence(each)})" for each in training.teachers]


def _of_timm(model: str) -> str:
    import timm

    known = timm.get_pretrained_cfg(model, allow_unregistered=True)
    return str((known.license if known else None) or f"{NOT_STATED} by timm")


def _use(facts: Facts, file: str | None, measured: Mapping[str, Any]) -> list[str]:
    found = []
    if facts.model and not facts.bits:
        found.append(_timm(facts))
    elif file:
        found.append(f"`{file}` holds weights of {facts.bits} for `distill eval` and `distill predict`.")
    if measured:
        shape = ",".join(map(str, ("B", *facts.shape)))
        what = "`logits`" if facts.classes else "its features, called `logits`"
        found.append(f"`{measured['file']}` takes `images` [{shape}], normalised as above, and gives {what}.")
    asked = ["`distill predict FOLDER IMAGES` asks either, `distill eval FOLDER` measures it."] if facts.classes else []
    return [*found, *asked]


def _timm(facts: Facts) -> str:
    ours = ["import distill.models.timm_registry  # pip install distill: puts this net into timm's registry"]
    mode, value = "L" if facts.channels == 1 else "RGB", "logits" if facts.classes else "features"
    turned = facts.dataset.get("kind") == "folder" and facts.dataset.get("exif") is not False
    opened = 'Image.open("image.jpg")'
    opened = f"ImageOps.exif_transpose({opened})" if turned else opened
    lines = [
        "import timm",
        *(ours if facts.model in OUR_NETS else []),
        f"from PIL import Image{', ImageOps' if turned else ''}",
        "",
        'net = timm.create_model("local-dir:FOLDER", pretrained=True).eval()   # or hf-hub:OWNER/NAME',
        "seen = timm.data.create_transform(**timm.data.resolve_model_data_config(net))",
        f'{value} = net(seen({opened}.convert("{mode}"))[None])',
        'print(net.pretrained_cfg["label_names"][logits.argmax()])' if facts.classes else "print(features.shape)",
    ]
    how = "whole" if facts.crop == SQUASH else "by the middle of their shorter side's square"
    how += f", with {facts.border} black pixels on each side" if facts.border else ""
    how += ", turned as their EXIF says" if turned else ""
    return "```python\n" + "\n".join(lines) + f"\n```\n\nImages are shown {how}.{_decoding(facts)}"


def _decoding(facts: Facts) -> str:
    """What becomes of files that are not plain colours of 8 bits, which `convert` treats otherwise."""
    if facts.dataset.get("kind") != "folder":
        return ""
    values = facts.dataset.get("value_range")
    deep = f"from {values[0]} (black) to {values[1]} (white)" if values else "by the file's own range"
    colour = list(facts.dataset.get("background") or (255, 255, 255))
    return (
        f" `distill predict` lays transparent parts on the colour {colour}, brings values of more than 8 bits to 8 "
        f"({deep}) and CMYK to sRGB by its profile, as in training; `convert` alone does none of that."
    )


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {_md(name)} | {_md(str(value))} |" for name, value in rows.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


def _md(text: str) -> str:
    """Text of anybody's as a table of Markdown shows it."""
    for mark in "\\|*_<>`[]":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
