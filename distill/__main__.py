"""`python -m distill`: hands over to the command line."""

import sys

from distill.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
