"""Proofs on a real cluster, under load: `python -m tooling.e2e`. See `proofs` for what is proven, `load` for the load."""
