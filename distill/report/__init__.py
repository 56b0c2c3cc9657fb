"""Reports over finished runs: `distill report outputs --table crd_table1 --out report.html`.

Reads `result.json` files (and `metrics.jsonl` beside them for the learning curves), nothing else:
collect (files to runs) > summary (runs to rows over seeds) > overview, compare
(rows to tables) > writers, page.
"""
