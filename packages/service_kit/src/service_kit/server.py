"""Running under gunicorn: threads in several processes, JSON logs, and an end that drops no request."""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from service_kit import gthread
from service_kit.service import Service
from service_kit.telemetry import metrics
from service_kit.telemetry.logs import log


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, with the options of the service's settings."""

    def __init__(self, service: Service, create_app: Callable[[], Flask]) -> None:
        self.service = service
        self.settings = service.settings
        self.create_app = create_app
        super().__init__()

    def load_config(self) -> None:
        """Tell gunicorn what it has to know."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        options = {
            "bind": f"{host}:{self.settings.port}",
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
            "forwarded_allow_ips": "",  # who may speak for others is told by TRUSTED_PROXIES alone
            "sendfile": False,  # it would overtake the head that waits for its body
            "worker_connections": gthread.PLACES,
            "post_fork": lambda _arbiter, _worker: self.start_worker(),
            "child_exit": lambda _arbiter, worker: metrics.worker_exited(worker.pid),
            "proc_name": self.service.name,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The application, once, in the parent. What is there by now is never garbage, and workers share its pages."""
        application = self.create_app()
        gc.collect()
        gc.freeze()
        return application

    def start_worker(self) -> None:
        """What a worker needs of its own: connections, metrics, and the thread that sends traces."""
        service = self.service
        service.draining = lambda: bool(gthread.draining[0])
        service.start_worker()
        metrics.start_worker(
            service.package, service.version, self.settings.revision, self.settings.threads, service.sample
        )
        if self.settings.otel_exporter_otlp_endpoint:
            service.tracer = service.start_tracer()
            atexit.register(service.tracer.close)

    def run(self) -> None:
        """Serve until told to end."""
        gthread.Master(self).run()


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # workers inherit what their parent registered
        shutil.rmtree(folder, ignore_errors=True)


def serve(service: Service, create_app: Callable[[], Flask]) -> None:
    """Serve the application until SIGTERM or SIGINT. It is created once, before the workers are forked."""
    settings = service.settings
    for note in settings.weaker:
        log.warning(note)
    metrics.prepare_folder()
    folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
    if not settings.prometheus_multiproc_dir and folder.startswith(tempfile.gettempdir()):
        atexit.register(_remove, folder, os.getpid())
    Server(service, create_app).run()
