"""What the service costs, held against other frameworks that do the same work."""
