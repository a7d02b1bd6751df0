"""The peer: the same task routes as FastAPI's own tutorial builds them, on the SQLAlchemy ORM and SQLite."""

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import JSON, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = create_engine(f"sqlite:///{os.environ['DB_PATH']}")


class Status(StrEnum):
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"


class Priority(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


Labels = Annotated[list[Annotated[str, Field(min_length=1, max_length=50)]], Field(max_length=20)]

Reminders = Annotated[list[dict[str, str]], Field(max_length=5)]


class Base(DeclarativeBase):
    pass


def now() -> datetime:
    return datetime.now(UTC)


class Task(Base):
    __tablename__ = "tasks"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    description: Mapped[str]
    status: Mapped[Status]
    priority: Mapped[Priority]
    due_at: Mapped[datetime | None]
    project: Mapped[str | None]
    labels: Mapped[list[str]] = mapped_column(JSON)
    recurrence: Mapped[str | None]
    time_zone: Mapped[str | None]
    reminders: Mapped[list[dict[str, str]]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class TaskIn(BaseModel):
    title: str = Field(min_length=1, max_length=200)
    description: str = ""
    status: Status = Status.PENDING
    priority: Priority = Priority.NORMAL
    due_at: datetime | None = None
    project: str | None = Field(default=None, min_length=1, max_length=100)
    labels: Labels = []
    recurrence: str | None = Field(default=None, max_length=200)
    time_zone: str | None = Field(default=None, max_length=64)
    reminders: Reminders = []


class TaskChanges(BaseModel):
    title: str = Field(default="", min_length=1, max_length=200)
    description: str = ""
    status: Status = Status.PENDING
    priority: Priority = Priority.NORMAL
    due_at: datetime | None = None
    project: str | None = Field(default=None, min_length=1, max_length=100)
    labels: Labels = []
    recurrence: str | None = Field(default=None, max_length=200)
    time_zone: str | None = Field(default=None, max_length=64)
    reminders: Reminders = []


class TaskOut(TaskIn):
    model_config = ConfigDict(from_attributes=True)

    id: int
    created_at: datetime
    updated_at: datetime


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    Base.metadata.create_all(engine)
    yield


app = FastAPI(lifespan=lifespan)


def session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


Database = Annotated[Session, Depends(session)]


def existing(db: Session, task_id: int) -> Task:
    task = db.get(Task, task_id)
    if task is None:
        raise HTTPException(404, "no such task")
    return task


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/tasks", response_model=list[TaskOut])
def list_tasks(
    db: Database,
    status: Status | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: int = 0,
) -> Sequence[Task]:
    query = select(Task).where(Task.id > after).order_by(Task.id).limit(limit)
    if status is not None:
        query = query.where(Task.status == status)
    return db.scalars(query).all()


@app.post("/tasks", response_model=TaskOut, status_code=201)
def create_task(body: TaskIn, db: Database, response: Response) -> Task:
    task = Task(**body.model_dump())
    db.add(task)
    db.commit()
    response.headers["Location"] = f"/tasks/{task.id}"
    return task


@app.get("/tasks/{task_id}", response_model=TaskOut)
def get_task(task_id: int, db: Database) -> Task:
    return existing(db, task_id)


@app.put("/tasks/{task_id}", response_model=TaskOut)
def update_task(task_id: int, body: TaskChanges, db: Database) -> Task:
    task = existing(db, task_id)
    for name, value in body.model_dump(exclude_unset=True).items():
        setattr(task, name, value)
    db.commit()
    return task


@app.delete("/tasks/{task_id}")
def delete_task(task_id: int, db: Database) -> dict[str, str]:
    db.delete(existing(db, task_id))
    db.commit()
    return {"message": "deleted"}
