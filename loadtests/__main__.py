"""Parse the command line and run. Exit status: 0 pass, 1 fail, 2 inconclusive or could not run."""

import sys
from collections.abc import Sequence

from loadtests import timeline
from loadtests.hpa import command
from loadtests.options import parse
from loadtests.run import against, run
from locust_verdict import VerdictError
from tooling.project import ToolingError

COULD_NOT_RUN = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["hpa"]:
        return command.main(words[1:])
    options, rest = parse(words)
    try:
        if options.replay:
            page = options.replay[0].with_name("replay.html")
            timeline.write(page, *options.replay)
            print(page)
            return 0
        return against(options, rest) if options.against else run(options, rest)
    except (ToolingError, VerdictError, OSError) as error:
        print(f"load: {error}", file=sys.stderr)
        return COULD_NOT_RUN


if __name__ == "__main__":
    sys.exit(main())
