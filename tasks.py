"""What a person asks for. `./dev` lists the tasks."""

import invoke


@invoke.task
def serve(context: invoke.Context) -> None:
    """Serve tasks on http://127.0.0.1:5000 with the embedded database; settings by environment."""
    context.run("task-api serve", pty=False)
