"""Teachers: where they come from, how they are made ready, what they said before."""
