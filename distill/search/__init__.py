"""Hyper-parameter search on held-out images: `python -m distill.search method=kd 'method.temperature=range(1,20)'`.

space (overrides to distributions) > study (Optuna's storage, shared and resumed) > trial (one run, stopped when it is
bad) > __main__ (the command).
"""
