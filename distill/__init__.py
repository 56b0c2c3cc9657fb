"""Knowledge distillation experiments, composed with Hydra: `python -m distill method=crd student=resnet20`."""

__version__ = "0.1.0"
