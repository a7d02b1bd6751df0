#!/bin/bash
# Replaces the content of the database by the backup that `BACKUP` names, the newest by default, in one transaction.
set -euo pipefail
shopt -s nullglob
files=(/backups/*.dump)
[ ${#files[@]} -gt 0 ] || { echo "there is no backup in /backups"; exit 1; }
file=${BACKUP:+/backups/$BACKUP}
file=${file:-${files[-1]}}
[ -f "$file" ] || { echo "there is no $file; there are: ${files[*]}"; exit 1; }
# The whole schema is dropped, because newer migrations may have made tables that the dump does not know. It is made again as
# PostgreSQL makes it. COMMIT is sent only after the whole dump was read.
{
  echo 'BEGIN; SET LOCAL client_min_messages = warning;'
  echo 'DROP SCHEMA public CASCADE;'
  echo 'CREATE SCHEMA public AUTHORIZATION pg_database_owner; GRANT USAGE ON SCHEMA public TO PUBLIC;'
  pg_restore --no-owner --file=- "$file"
  echo 'COMMIT;'
} | psql --dbname="$DATABASE_URL" --no-psqlrc --quiet --output=/dev/null --set=ON_ERROR_STOP=1
echo "restored $file"
