"""From a composed configuration to names, hashes and objects. Imports neither torch nor timm nor wandb."""

from distill.config.build import build, class_of
from distill.config.groups import conf_dir, did_you_mean, load, nearest, options, plain, slug
from distill.config.identity import (
    UNHASHED,
    WHOLE,
    canonical,
    from_paper,
    has_teacher,
    identity,
    reads,
    science,
    taps,
    teacher_config,
    teacher_name,
    teacher_specs,
)
from distill.config.resolvers import register

__all__ = [
    "UNHASHED",
    "WHOLE",
    "build",
    "canonical",
    "class_of",
    "conf_dir",
    "did_you_mean",
    "from_paper",
    "has_teacher",
    "identity",
    "load",
    "nearest",
    "options",
    "plain",
    "reads",
    "register",
    "science",
    "slug",
    "taps",
    "teacher_config",
    "teacher_name",
    "teacher_specs",
]
