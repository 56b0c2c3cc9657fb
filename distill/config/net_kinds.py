"""Which kind of net a model is, a CNN or one of tokens (ViTs and MLPs), by its name: what recipes are published for.

Imports neither torch nor timm.
"""

from __future__ import annotations

import json
from pathlib import Path

from distill.config.net_names import timm_files
from distill.config.our_nets import OUR_NETS
from distill.content.fingerprint import LOCAL

CNN, VIT_MLP = "cnn", "vit_mlp"
_TOKENS = {  # files of timm whose nets are of tokens throughout
    "beit", "cait", "convit", "crossvit", "deepseek_vit", "deit", "eva", "gemma4_vit", "hiera", "hieradet_sam2",
    "mlp_mixer", "mvitv2", "naflexvit", "nest", "pit", "pvt_v2", "qwen3_vit", "sequencer", "swin_transformer",
    "swin_transformer_v2", "swin_transformer_v2_cr", "tnt", "twins", "vision_transformer",
    "vision_transformer_relpos", "vision_transformer_sam", "volo", "xcit",
}  # fmt: skip
_BOTH = {  # of convolutions and of attention or the like, which nobody counts among either
    "byoanet", "coat", "cpubone", "csatv2", "davit", "edgenext", "efficientformer", "efficientformer_v2",
    "efficientvim", "efficientvit_mit", "efficientvit_msra", "fastvit", "focalnet", "gcvit", "iformer", "levit",
    "lowformer", "mambaout", "maxxvit", "metaformer", "mobilenetv5", "mobilevit", "nextvit", "shvit",
    "swiftformer", "tiny_vit", "visformer", "vision_transformer_hybrid", "vitamin",
}  # fmt: skip


def net_kind(model: str) -> str | None:
    """`cnn` or `vit_mlp`; None for a net of both, and for one that no file of timm's tells (the Hub's, a plugin's)."""
    if model in OUR_NETS:
        return VIT_MLP if OUR_NETS[model].family == "mlp" else CNN
    if model.startswith(LOCAL):
        model = _architecture(Path(model.removeprefix(LOCAL)) / "config.json")
    file = timm_files().get(model.split(".")[0])
    return None if file is None or file in _BOTH else VIT_MLP if file in _TOKENS else CNN


def _architecture(config: Path) -> str:
    """What the config.json of a model's folder names; nothing where it names nothing."""
    try:
        return str(json.loads(config.read_text(encoding="utf-8"))["architecture"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
