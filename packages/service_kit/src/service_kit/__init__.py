"""What every service of this repository needs. It imports no service.

Modules, each importing only those below it: `server` → `http` → `service` → `config`, `telemetry`.
"""
