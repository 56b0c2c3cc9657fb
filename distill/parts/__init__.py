"""What several methods share: heads, taps, cohorts, phases, samplers of classes, small solvers. One thing a file."""
