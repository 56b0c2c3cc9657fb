"""Reports over finished runs: `distill report outputs --table crd_table1 --out report.html`.

Reads `result.json` files (and `metrics.jsonl` beside them for the learning curves), nothing else:
collect (files to runs) > summary (runs to rows over seeds) > ranking (rows to who won on each pair) > overview,
compare, against (to tables) and figures (to charts) > writers, terminal, page.
"""
