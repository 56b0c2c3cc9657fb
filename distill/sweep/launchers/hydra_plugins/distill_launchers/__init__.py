"""Hydra launchers of distill: local, slurm, ray."""
