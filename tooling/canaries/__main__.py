"""`python -m tooling.canaries [STAGE ...]`."""

import sys

from tooling.canaries import main

sys.exit(main(sys.argv[1:]))
