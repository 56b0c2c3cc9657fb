"""What a run leaves behind: rows, results, the terminal, trackers."""
