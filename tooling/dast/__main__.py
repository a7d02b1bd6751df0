"""`python -m tooling.dast`."""

import sys

from tooling.dast import main

sys.exit(main())
