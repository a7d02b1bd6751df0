"""What the service tells of itself: metrics, logs, traces. None of it knows HTTP or the store."""
