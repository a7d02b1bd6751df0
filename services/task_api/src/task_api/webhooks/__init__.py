"""Webhooks: the rules of their registration, and the delivery of changes to them."""
