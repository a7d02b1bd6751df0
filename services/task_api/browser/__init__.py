"""The page at /, used in a real browser as people use it: `nox -s browser`."""
