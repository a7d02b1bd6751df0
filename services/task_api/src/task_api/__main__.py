"""`python -m task_api` is the command line, where no script is installed (as in the image)."""

from task_api.cli import main

main()
