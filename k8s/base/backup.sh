#!/bin/bash
# Writes a dump of the database to /backups, under the time it is made; deletes those older than 14 days, never the newest.
set -euo pipefail
umask 077
# Deleted first, so that a full volume has room again. A job ends within an hour (activeDeadlineSeconds).
last=$(printf '%s\n' /backups/*.dump | tail -n 1)
find /backups -maxdepth 1 -name '*.partial' -mmin +60 -delete
find /backups -maxdepth 1 -name '*.dump' -mtime +14 ! -path "$last" -delete
file=/backups/$(date -u +%Y-%m-%dT%H%M%SZ).dump
trap 'rm -f "$file.partial"' EXIT
pg_dump --dbname="$DATABASE_URL" --format=custom --file="$file.partial"
pg_restore --list "$file.partial" > /dev/null
mv "$file.partial" "$file"
stat --format='%n %s bytes' "$file"
