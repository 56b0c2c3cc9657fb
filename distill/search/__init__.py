"""Hyper-parameter search on held-out images: `distill search method=kd 'method.temperature=range(1,20)'`.

space (overrides to distributions) > study (Optuna's storage, shared and resumed) > trial (one run, stopped when it is
bad) > command (all of it).
"""
