"""The image's life: `build`, `scan`, `push`, its signed `provenance`, and whether a deploy may `trust` it."""
