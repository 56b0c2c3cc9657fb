"""The loop and what it is made of: steps, optimisers, checkpoints, measures, speed. It knows no method."""
