"""The load tests' own locustfile, which also writes each sample as it is: what the histograms are held against."""

import os
from pathlib import Path
from typing import Any

from locust import events

from loadtests.locustfile import Importer, Reader, Session, Shape, Writer, Yardstick

__all__ = ["Importer", "Reader", "Session", "Shape", "Writer", "Yardstick"]


def write(*, request_type: str, name: str, response_time: float, context: dict[str, Any], **_: Any) -> None:
    """Append one sample to this process's file."""
    with (Path(os.environ["RAW_SAMPLES"]) / str(os.getpid())).open("a") as file:
        file.write(f"{request_type} {name}\t{response_time!r}\t{response_time + context.get('lateness', 0)!r}\n")


events.request.add_listener(write)  # type: ignore[no-untyped-call] # Locust's event hooks are untyped
