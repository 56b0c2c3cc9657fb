"""The command line: what was typed, the verbs, and the words of an error."""
