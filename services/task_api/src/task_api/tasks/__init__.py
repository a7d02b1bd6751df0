"""What a task is and what may be done with it. Knows the store; knows nothing of HTTP."""
