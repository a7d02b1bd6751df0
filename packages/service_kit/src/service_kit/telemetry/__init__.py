"""Metrics, logs and traces. None of the modules imports HTTP or the store."""
