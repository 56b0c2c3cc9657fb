"""Imported once by the process that all local jobs are forked from: each of them starts in milliseconds."""

import distill.cli.main
import distill.run  # noqa: F401
