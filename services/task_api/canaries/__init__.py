"""Planted defects in this service, by stage; `./dev canaries` runs them with those of tooling/canaries."""
