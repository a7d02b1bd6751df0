"""Load tests with a verdict: `import locust_verdict.plugin` in a locustfile adds the option `--objectives`.

The exit status is 0 where every objective holds, 1 where one is missed, 2 where the run cannot be judged. The README
begins with an example.
"""


class VerdictError(Exception):
    """A file of objectives or a record cannot be used; the message is the reason, in one line."""
