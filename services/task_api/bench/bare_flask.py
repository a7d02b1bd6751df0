"""The peer: the same task routes on Flask and `sqlite3` and nothing else.

One connection a request, as Flask's documentation has it.
"""

import json
import os
import sqlite3
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, abort, g, jsonify, request

FIELDS = (
    "title",
    "description",
    "status",
    "priority",
    "due_at",
    "project",
    "labels",
    "recurrence",
    "time_zone",
    "reminders",
)
LISTS = ("labels", "reminders")
STATUSES = ("pending", "in_progress", "completed")
PRIORITIES = ("low", "normal", "high")
TITLE_LENGTH = 200

app = Flask(__name__)


def connect() -> sqlite3.Connection:
    connection = sqlite3.connect(os.environ["DB_PATH"])
    connection.row_factory = sqlite3.Row
    return connection


def database() -> sqlite3.Connection:
    if "database" not in g:
        g.database = connect()
    connection: sqlite3.Connection = g.database
    return connection


@app.teardown_appcontext
def close(_error: BaseException | None) -> None:
    connection = g.pop("database", None)
    if connection is not None:
        connection.close()


with connect() as first:
    first.execute(
        "CREATE TABLE IF NOT EXISTS tasks (id INTEGER PRIMARY KEY, title TEXT NOT NULL, description TEXT NOT NULL,"
        " status TEXT NOT NULL, priority TEXT NOT NULL, due_at TEXT, project TEXT, labels TEXT NOT NULL,"
        " recurrence TEXT, time_zone TEXT, reminders TEXT NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL)"
    )


def now() -> str:
    return datetime.now(UTC).isoformat()


def shown(row: sqlite3.Row) -> dict[str, Any]:
    return {**row, **{name: json.loads(row[name]) for name in LISTS}}


def kept(task: dict[str, Any]) -> dict[str, Any]:
    return {**task, **{name: json.dumps(task[name]) for name in LISTS}}


def checked(body: dict[str, Any]) -> dict[str, Any]:
    title = body.get("title")
    if "title" in body and not (isinstance(title, str) and 1 <= len(title.strip()) <= TITLE_LENGTH):
        abort(400, "title: 1 to 200 characters")
    if body.get("status", "pending") not in STATUSES or body.get("priority", "normal") not in PRIORITIES:
        abort(400, "status or priority is not one of those known")
    return {name: body[name] for name in FIELDS if name in body}


def existing(task_id: int) -> sqlite3.Row:
    row: sqlite3.Row | None = database().execute("SELECT * FROM tasks WHERE id = ?", (task_id,)).fetchone()
    if row is None:
        abort(404)
    return row


@app.get("/health")
def health() -> Response:
    return jsonify(status="ok")


@app.get("/tasks")
def list_tasks() -> Response:
    limit = min(request.args.get("limit", 20, int), 100)
    after, status = request.args.get("after", 0, int), request.args.get("status")
    if status:
        query = "SELECT * FROM tasks WHERE id > ? AND status = ? ORDER BY id LIMIT ?"
        rows = database().execute(query, (after, status, limit))
    else:
        rows = database().execute("SELECT * FROM tasks WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
    return jsonify([shown(row) for row in rows])


@app.post("/tasks")
def create_task() -> tuple[Response, int, dict[str, str]]:
    body = checked(request.get_json())
    if "title" not in body:
        abort(400, "title is required")
    start: dict[str, Any] = {"description": "", "status": "pending", "priority": "normal"}
    start |= {"due_at": None, "project": None, "labels": [], "recurrence": None, "time_zone": None, "reminders": []}
    task = {**start, **body}
    task["created_at"] = task["updated_at"] = now()
    cursor = database().execute(
        "INSERT INTO tasks (title, description, status, priority, due_at, project, labels, recurrence,"
        " time_zone, reminders, created_at, updated_at) VALUES (:title, :description, :status, :priority, :due_at,"
        " :project, :labels, :recurrence, :time_zone, :reminders, :created_at, :updated_at)",
        kept(task),
    )
    database().commit()
    return jsonify(id=cursor.lastrowid, **task), 201, {"Location": f"/tasks/{cursor.lastrowid}"}


@app.get("/tasks/<int:task_id>")
def get_task(task_id: int) -> Response:
    return jsonify(shown(existing(task_id)))


@app.put("/tasks/<int:task_id>")
def update_task(task_id: int) -> Response:
    task = {**shown(existing(task_id)), **checked(request.get_json()), "updated_at": now()}
    database().execute(
        "UPDATE tasks SET title = :title, description = :description, status = :status, priority = :priority,"
        " due_at = :due_at, project = :project, labels = :labels, recurrence = :recurrence,"
        " time_zone = :time_zone, reminders = :reminders, updated_at = :updated_at WHERE id = :id",
        kept(task),
    )
    database().commit()
    return jsonify(task)


@app.delete("/tasks/<int:task_id>")
def delete_task(task_id: int) -> Response:
    existing(task_id)
    database().execute("DELETE FROM tasks WHERE id = ?", (task_id,))
    database().commit()
    return jsonify(message="deleted")
