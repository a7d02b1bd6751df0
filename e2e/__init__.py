"""Proofs on a real cluster: `python -m e2e`. See `proofs` for what is proven, `load` for the load."""
