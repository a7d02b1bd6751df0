"""Schemathesis writes some integers as 1.0: JSON Schema lets them be integers, no client writes them so."""

from typing import Any

import schemathesis


def whole(value: Any) -> Any:
    """Write each number without a fraction as an integer."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: whole(member) for name, member in value.items()}
        case list():
            return [whole(member) for member in value]
    return value


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]) -> None:
    """Change the body before it is sent."""
    case.body = whole(case.body)
