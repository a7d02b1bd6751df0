"""The plugin: `import locust_verdict.plugin` in a locustfile adds its options, the record and the verdict.

Exit status: 0 every objective holds, 1 one is missed, 2 the run cannot be judged or the objectives are wrong.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from locust import events
from locust.runners import WorkerRunner

from locust_verdict import VerdictError, collector, verdict
from locust_verdict.objectives import load_objectives

CANNOT_BE_JUDGED = 2


def objectives_file(text: str) -> str:
    """Return the path of a file of objectives that can be used. Raises ArgumentTypeError with the mistake."""
    try:
        load_objectives(Path(text))
    except VerdictError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def add_options(parser: Any) -> None:
    """Add the options; the browser UI shows none of them."""
    added: dict[str, dict[str, Any]] = {
        "--objectives": {"type": objectives_file, "help": "what the run has to hold (YAML)"},
        "--record": {"help": "the flight record, JSON lines (record.jsonl); the verdict is verdict.json beside it"},
        "--metrics": {"default": "", "help": "path of the server's metrics on the host, such as /metrics"},
        "--histogram": {
            "default": "http_request_duration_seconds",
            "help": "the histogram of durations in them, with the labels method and endpoint",
        },
    }
    for name, more in added.items():
        parser.add_argument(name, include_in_web_ui=False, **more)


def prepare(environment: Any, **_: Any) -> None:
    """Attach the collector, and judge in the end: in the only process, or in the master."""
    options = environment.parsed_options
    if options is None or not (options.objectives or options.record or isinstance(environment.runner, WorkerRunner)):
        return
    options.record = options.record or "record.jsonl"
    collect = collector.attach(environment)
    if isinstance(environment.runner, WorkerRunner):
        return

    def start(**_: Any) -> None:
        collect.begin(re.sub(r"//[^@/]*@", "//", environment.host or ""))

    def judge(**_: Any) -> None:
        environment.process_exit_code = CANNOT_BE_JUDGED  # whatever breaks below
        collect.flush()
        try:
            result = verdict.finish(load_objectives(Path(options.objectives)), Path(options.record))
        except (VerdictError, OSError) as error:
            print(f"verdict: {error}", file=sys.stderr)
        else:
            environment.process_exit_code = result.exit_code

    environment.events.test_start.add_listener(start)
    if options.objectives:
        verdict.place(Path(options.record)).unlink(missing_ok=True)
        environment.events.quitting.add_listener(judge)


for hook, listener in ((events.init_command_line_parser, add_options), (events.init, prepare)):
    hook.add_listener(listener)  # type: ignore[no-untyped-call] # Locust's event hooks are untyped
