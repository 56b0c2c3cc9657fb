"""`make faults`: kills, bad inputs, full disks, dead servers and sabotaged sweeps, and a summary of what survived."""
