"""Running under gunicorn: threads in several processes, JSON logs, and an end that drops no request."""

import atexit
import gc
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from service_kit import gthread
from service_kit.service import Service
from service_kit.telemetry import metrics
from service_kit.telemetry.logs import log

SPARE_FILES = 100
"""File descriptors of a worker beside its clients' connections: databases, metrics, logs."""


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, with the options of the service's settings, on a socket that listens already."""

    def __init__(self, service: Service, create_app: Callable[[], Flask], listener: socket.socket) -> None:
        self.listener = listener
        self.service = service
        self.settings = service.settings
        self.create_app = create_app
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn's options from the service's settings."""
        options = {
            "bind": f"fd://{self.listener.detach()}",
            "workers": self.settings.workers,
            "threads": self.settings.threads,
            "worker_class": gthread.Worker,
            "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,
            "graceful_timeout": self.settings.graceful_timeout,
            "timeout": 60,
            "keepalive": self.settings.idle_seconds,
            "preload_app": True,
            "loglevel": self.settings.log_level,
            "logger_class": gthread.Logger,
            "control_socket_disable": True,
            "forwarded_allow_ips": "",  # TRUSTED_PROXIES alone decides whose X-Forwarded-* headers count
            "sendfile": False,  # it would overtake the head that waits for its body
            "worker_connections": places(),
            "post_fork": lambda _arbiter, _worker: self.start_worker(),
            "child_exit": lambda _arbiter, worker: metrics.worker_exited(worker.pid),
            "proc_name": self.service.name,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Return the application, made once in the parent: it is never garbage, and workers share its memory."""
        application = self.create_app()
        gc.collect()
        gc.freeze()
        return application

    def start_worker(self) -> None:
        """Start what a worker needs of its own: connections, metrics, and the thread that sends traces."""
        service = self.service
        service.draining = lambda: bool(gthread.draining[0])
        if self.settings.otel_exporter_otlp_endpoint:  # before the service's own threads, which are traced too
            service.tracer = service.start_tracer()
            atexit.register(service.tracer.close)
        service.start_worker()
        metrics.start_worker(
            service.package, service.version, self.settings.revision, self.settings.threads, service.sample
        )

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP."""
        gthread.Master(self).run()


def places() -> int:
    """Return how many connections a worker may have: as many as there are file descriptors for, up to `gthread.PLACES`.

    Raises the soft limit of file descriptors as far as that needs and the hard limit lets.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = gthread.PLACES + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return gthread.PLACES if soft == resource.RLIM_INFINITY else min(gthread.PLACES, max(soft - SPARE_FILES, 1))


def serve(service: Service, create_app: Callable[[], Flask], listener: socket.socket) -> None:
    """Serve the application until SIGTERM, SIGINT or SIGHUP. It is created once, before the workers are forked.

    Raises `metrics.FolderInUse` where another service keeps its metrics in the same folder.
    """
    settings = service.settings
    for note in settings.weaker:
        log.warning(note)
    metrics.prepare_folder()
    Server(service, create_app, listener).run()
