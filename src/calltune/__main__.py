"""`python -m calltune`, the same as `calltune`."""

import sys

from calltune.cli import main

sys.exit(main())
