"""What leaves the program: a student as a folder that others load, measured and asked again from there."""
