"""Who is asking. Knows the store; knows nothing of HTTP."""
