"""Proofs on a real cluster: `python -m tooling.e2e`. See `proofs` for what is proven, `load` for the load."""
