from alembic import context

from task_core.schema import metadata

connection = context.config.attributes["connection"]
one_each = connection.dialect.name == "postgresql"  # SQLite's are all in the transaction of the caller
context.configure(
    connection=connection, target_metadata=metadata, transactional_ddl=True, transaction_per_migration=one_each
)
if one_each:
    with context.begin_transaction():
        context.run_migrations()
else:
    context.run_migrations()
