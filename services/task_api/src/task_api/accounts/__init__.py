"""Who the caller is. Knows the store; knows nothing of HTTP."""
