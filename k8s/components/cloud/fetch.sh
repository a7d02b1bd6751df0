#!/bin/sh
# Copies the backup that `BACKUP` names, the newest by default, from the object storage to where restore.sh reads it.
set -eu
file=${BACKUP:-$(rclone lsf "store:$BUCKET" --include '*.dump' --files-only | sort | tail -n 1)}
[ -n "$file" ] || { echo "there is no backup in $BUCKET"; exit 1; }
rclone copyto "store:$BUCKET/$file" "/backups/$file"
echo "fetched $file"
