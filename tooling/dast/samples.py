"""Values that a JSON schema of the OpenAPI document accepts: the least ones, and one for each alternative."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tooling.project import ToolingError

INSTANT = "2030-01-01T00:00:00Z"


class NoSampleError(ToolingError):
    """There is no value: a schema uses an unknown keyword, or a response lacks what a link names."""


@dataclass
class Sampler:
    """Makes values for one document's schemas: `values` has those of properties by name, `text` is any other string."""

    document: Mapping[str, Any]
    values: Mapping[str, Any]
    text: str = "attempt"

    def resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Follow references within the document; what stands beside one counts too."""
        while "$ref" in schema:
            node: Any = self.document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                node = node[part]
            schema = node | {key: value for key, value in schema.items() if key != "$ref"}
        return schema

    def alternatives(self, schema: Mapping[str, Any]) -> list[Any]:
        """Return a value for each alternative of the schema. Raises `NoSampleError`."""
        schema = self.resolve(schema)
        if "examples" in schema:  # it knows better than `text` what a pattern accepts
            return list(schema["examples"][:1])
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return [value for choice in schema[word] for value in self.alternatives(choice)]
        if "const" in schema or "enum" in schema:
            return [schema["const"] if "const" in schema else schema["enum"][0]]
        match schema.get("type"):
            case "object":
                return self.objects(schema)
            case "array":
                return [[value] for value in self.alternatives(schema["items"])] if schema.get("minItems") else [[]]
        return [self.scalar(schema)]

    def scalar(self, schema: Mapping[str, Any]) -> Any:
        """Return the value for a schema of one. Raises `NoSampleError`."""
        if schema.get("format") == "date-time":
            return INSTANT
        least = {
            "string": self.text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")],
            "integer": schema.get("minimum", 1),
            "number": schema.get("minimum", 1),
            "boolean": False,
            "null": None,
        }
        if schema.get("type") not in least:
            raise NoSampleError(f"no value is known for the schema {schema}")
        return least[schema["type"]]

    def objects(self, schema: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return objects with the required properties alone, enough for every alternative of each to be in one."""
        choices = {}
        for name in schema.get("required", []):
            if name in self.values:
                choices[name] = [self.values[name]]
            else:
                choices[name] = self.alternatives(schema["properties"][name])
        count = max(map(len, choices.values()), default=1)
        return [{name: values[min(i, len(values) - 1)] for name, values in choices.items()} for i in range(count)]

    def full(self, schema: Mapping[str, Any]) -> Any:
        """Return one value that has all that may be in it, of the first alternatives. Raises `NoSampleError`."""
        schema = self.resolve(schema)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self.full(schema[word][0])
        match schema.get("type"):
            case "object":
                properties = schema.get("properties", {}).items()
                written = [(name, each) for name, each in properties if not each.get("readOnly")]
                return {
                    name: self.values[name] if name in self.values else self.full(each)
                    for name, each in written[: schema.get("maxProperties")]
                }
            case "array":
                return [self.full(schema["items"])]
        return self.alternatives(schema)[0]


def constant(value: Any) -> dict[str, Any]:
    """Return a schema by which a tool that makes values of schemas makes this one."""
    match value:
        case dict():
            return {"type": "object", "properties": {name: constant(each) for name, each in value.items()}}
        case list():
            return {"type": "array", "items": constant(value[0])}
        case bool():
            return {"type": "boolean", "default": value}
        case int():
            return {"type": "integer", "default": value}
    return {"type": "string", "default": value}


def value_at(body: Any, expression: str) -> Any:
    """Evaluate a runtime expression of OpenAPI, `$response.body#/POINTER`, on a body. Raises `NoSampleError`."""
    value = body
    for part in expression.removeprefix("$response.body#/").split("/"):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (LookupError, TypeError):
            raise NoSampleError(f"a response has nothing at {expression}: {str(body)[:200]}") from None
    return value
