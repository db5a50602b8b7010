"""`python -m adderkit` is the command line."""

import sys

from adderkit.cli import main

sys.exit(main())
