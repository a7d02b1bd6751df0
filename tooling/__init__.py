"""The programs behind the pipeline's stages; each runs as `python -m tooling.NAME`."""
