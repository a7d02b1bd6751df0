#!/bin/sh
# Copies the dump of backup.sh to the object storage, and then deletes those older than 14 days: the newest is never deleted.
set -eu
rclone copy /backups "store:$BUCKET" --include '*.dump' --no-traverse
rclone delete "store:$BUCKET" --include '*.dump' --min-age 14d
rclone lsl "store:$BUCKET" --include "$(basename /backups/*.dump)"
