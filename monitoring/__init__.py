"""Metrics, alerts and dashboards of the Task API, and the proofs that they work."""
