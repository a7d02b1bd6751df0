"""Requests and responses: everything that imports Flask."""
