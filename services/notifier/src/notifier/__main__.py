"""`python -m notifier` is the command line, where no script is installed (as in the image)."""

from notifier.cli import main

main()
