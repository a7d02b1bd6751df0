"""Rivals with the service's features: accounts, validation, metrics, JSON logs, rate limits, database and queries."""
