"""A net that is named by a folder with weights (local-dir:FOLDER) and is trained from nothing is told to be."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from distill.config.hashing import student_node
from distill.content.fingerprint import LOCAL

_WEIGHTS = (".safetensors", ".bin", ".pth")  # how files of them end that timm takes from such a folder


def note_of_folder_model(cfg: DictConfig) -> str | None:
    """One line where the student begins with none of the weights that lie in its model's folder; else None."""
    node = student_node(cfg)
    model, begins = str(node.get("model")), str(node.get("weights") or "none") != "none" or node.get("upstream")
    if not model.startswith(LOCAL) or begins:
        return None
    folder = Path(model.removeprefix(LOCAL))
    if not any(path.name.endswith(_WEIGHTS) for path in folder.glob("*")):
        return None
    return (
        f"{model} is trained from nothing, and the weights in its folder are not taken: student.weights=pretrained "
        "begins with them, of a teacher teacher.start=pretrained, and teacher.weights=pretrained takes it as it is"
    )
