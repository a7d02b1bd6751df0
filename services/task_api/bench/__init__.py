"""What the service costs, held against two plain services that do the same work."""
