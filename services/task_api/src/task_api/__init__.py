"""A task service over HTTP, made to be run in production.

Layers, each knowing only those below it: `http` → `tasks`, `accounts` → `store`; `config` and `telemetry` stand
beside them. What every service has is in `service_kit`.
"""

from importlib.metadata import version

__version__ = version("task-api")
