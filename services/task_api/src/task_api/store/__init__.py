"""Where the data is: SQLAlchemy Core on SQLite or PostgreSQL, by one code path."""
