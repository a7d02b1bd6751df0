"""The service's command line. Exit codes: 0 done, 1 failed, 2 wrong arguments or settings."""

from notifier import __version__
from notifier.config import Settings
from service_kit.cli import CommandLine

ABOUT = "Delivers changes of tasks to webhooks."
RUN, APPLICATION = "notifier.app:run", "notifier.app:application"
main = CommandLine("notifier", __version__, Settings, RUN, ABOUT, application=APPLICATION)
