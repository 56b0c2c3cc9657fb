"""From a composed configuration to names, hashes and objects. Imports neither torch nor timm nor wandb."""

from distill.config.data_spec import DataSpec
from distill.config.factory import class_of, instantiate
from distill.config.groups import conf_dir, did_you_mean, load_node, nearest, no_such, options, plain, slug
from distill.config.hashing import (
    UNHASHED,
    WHOLE_SET,
    from_paper,
    has_teacher,
    hashed_config,
    identity,
    reads,
    taps,
    teacher_config,
    teacher_name,
    teacher_specs,
)
from distill.config.nulls import canonical
from distill.config.read_only import frozen, thawed
from distill.config.resolvers import register
from distill.config.resolving import resolve
from distill.config.run_spec import (
    EvaluateSpec,
    MethodSpec,
    NetSpec,
    RunSpec,
    StudentSpec,
    TeacherSpec,
)
from distill.config.schedule_spec import OptimizerSpec, ScheduleSpec

__all__ = [
    "UNHASHED",
    "WHOLE_SET",
    "DataSpec",
    "EvaluateSpec",
    "MethodSpec",
    "NetSpec",
    "OptimizerSpec",
    "RunSpec",
    "ScheduleSpec",
    "StudentSpec",
    "TeacherSpec",
    "instantiate",
    "canonical",
    "class_of",
    "conf_dir",
    "did_you_mean",
    "from_paper",
    "frozen",
    "has_teacher",
    "identity",
    "load_node",
    "nearest",
    "no_such",
    "options",
    "plain",
    "reads",
    "register",
    "resolve",
    "hashed_config",
    "slug",
    "taps",
    "teacher_config",
    "teacher_name",
    "teacher_specs",
    "thawed",
]
