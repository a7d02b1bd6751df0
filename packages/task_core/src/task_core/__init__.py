"""What the services that work with tasks share: tables, connections, the feed of changes, and delivery to webhooks.

Modules, each importing only those below it: `delivery` → `changes`, `webhooks` → `tasks` → `model`, `database` →
`schema`, `config`. The Task API's migrations alone change the tables.
"""
