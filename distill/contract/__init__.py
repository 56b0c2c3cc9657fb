"""What every method owes, as questions that a user's own can be asked: `distill check-method my_method`."""
