"""The command line of every service. Exit codes: 0 done, 1 failed, 2 wrong arguments or settings."""

import errno
import os
import shlex
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import click

from service_kit import listener
from service_kit.config import ConfigurationError, Settings, describe, load

if TYPE_CHECKING:
    from flask import Flask

S = TypeVar("S", bound=Settings)
Run = Callable[[S, socket.socket], None]


class CommandLine(click.Group, Generic[S]):
    """The commands `serve`, `check-config`, `routes` and `healthcheck`; a service adds its own with `command()`.

    `serve` calls `run` with the settings and a socket that listens. `run` returns when the service ends. `application`
    returns what `run` serves. Either may be text, `module:function`, which is imported once the settings are
    right: the metrics' folder is one of them.
    """

    def __init__(
        self,
        name: str,
        version: str,
        settings: type[S],
        run: Run[S] | str,
        about: str,
        *,
        application: "Callable[[S], Flask] | str",
    ) -> None:
        options = {"help_option_names": ["-h", "--help"]}
        super().__init__(
            name,
            help=f"{about} Settings come from the environment: see `{name} check-config`.",
            context_settings=options,
        )
        about_serve = "Serve until SIGTERM." if isinstance(run, str) else run.__doc__
        self._program, self._kind, self._run, self._application = name, settings, run, application
        click.version_option(version, prog_name=name)(self)
        self.add_command(click.Command("serve", callback=self._serve, help=about_serve))
        self.add_command(
            click.Command(
                "check-config",
                callback=self._check_config,
                help="Show every setting as it is now, secrets masked; exit 2 where one is wrong.",
            )
        )
        self.add_command(
            click.Command(
                "routes",
                callback=self._routes,
                params=[click.Option(["--under"], multiple=True, help="List also with this change: NAME=VALUE.")],
                help="List every route under these settings with its operation, - where the document has none.",
            )
        )
        ready = click.Option(["--ready"], is_flag=True, help="Check whether it is ready for requests, not only alive.")
        self.add_command(
            click.Command(
                "healthcheck",
                callback=self._healthcheck,
                params=[ready],
                help="Check whether the service on this machine is alive; exit 1 where it is not.",
            )
        )

    def settings(self) -> S:
        """Return the settings of the environment. Names each fault and exits with 2 where one is wrong."""
        try:
            return load(self._kind)
        except ConfigurationError as error:
            for problem in error.problems:
                click.echo(f"{self._program}: {problem}", err=True)
            sys.exit(2)

    def fail(self, message: object) -> NoReturn:
        """Print the message and exit with 1."""
        click.echo(f"{self._program}: {message}", err=True)
        sys.exit(1)

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run a command; what the terminal's encoding cannot show is replaced."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")
        return super().main(*arguments, **options)

    def _serve(self) -> None:
        settings = self.settings()
        if folder := settings.prometheus_multiproc_dir:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                self.fail(f"PROMETHEUS_MULTIPROC_DIR: {error}")
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # prometheus-client reads it at its import
        with self._listen(settings) as listening:
            from service_kit.telemetry import logs, metrics  # noqa: PLC0415 - after the settings are known to be right

            logs.configure(settings.log_level)
            try:
                _imported(self._run)(settings, listening)
            except metrics.FolderInUse as error:
                self.fail(error)

    def _listen(self, settings: S) -> socket.socket:
        try:
            return listener.listen(settings.host, settings.port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                self.fail(f"PORT: {settings.port} on {settings.host} is taken: end what listens there, or set another")
            self.fail(f"HOST, PORT: {settings.host}, {settings.port}: {error.strerror}")

    def _check_config(self) -> None:
        settings = self.settings()
        rows = describe(settings)
        width = max(len(name) for name, _, _ in rows)
        for name, value, meaning in rows:
            click.echo(f"{name:<{width}}  {value or '(unset)':<28}  {meaning}")
        for note in settings.weaker:
            click.echo(f"note: {note}", err=True)

    def _routes(self, under: tuple[str, ...]) -> None:
        from service_kit.http.openapi import routes  # noqa: PLC0415

        unchanged = dict(os.environ)
        for change in ("", *under):
            os.environ.clear()
            os.environ.update(unchanged | dict(part.split("=", 1) for part in shlex.split(change)))
            if under:
                click.echo(f"# {change}")
            for method, path, operation in sorted(routes(_imported(self._application)(self.settings()))):
                click.echo(f"{method:<7} {path}  {operation or '-'}")

    def _healthcheck(self, ready: bool) -> None:
        settings = self.settings()
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
        url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/{'readyz' if ready else 'livez'}"
        try:
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(url, timeout=3) as response:
                click.echo(response.read().decode())
        except urllib.error.HTTPError as refusal:
            with refusal:
                self.fail(f"{refusal}: {refusal.read().decode()}")
        except OSError as error:
            self.fail(error)


def _imported(function: Callable[..., Any] | str) -> Callable[..., Any]:
    return resolve_name(function) if isinstance(function, str) else function
