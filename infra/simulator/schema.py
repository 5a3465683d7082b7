"""Requests held against Linode's official OpenAPI schema."""

import json
import re
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from infra.simulator.answers import JSON

_STRINGS = {"type": "array", "items": {"type": "string"}}
# Where what is known of the API is newer than the schema of 2024: fields that it has got since, or
# that it defines otherwise.
_NEWER: dict[str, JSON] = {
    "POST /linode/instances": {
        "boot_size": {"type": "integer", "minimum": 8192},
        "disk_encryption": {"enum": ["enabled", "disabled"]},
        "firewall_id": {"type": "integer", "minimum": -1},
        "interface_generation": {"enum": ["legacy_config", "linode"]},
        "interfaces": {"type": "array", "items": {"type": "object"}, "maxItems": 3},
        "ipv4": _STRINGS,
        "kernel": {"type": "string"},
        "maintenance_policy": {"enum": ["linode/migrate", "linode/power_off_on"]},
        "network_helper": {"type": "boolean"},
    },
    "PUT /linode/instances/{}": {"maintenance_policy": {"type": "string"}},
    "POST /volumes": {
        "persist_across_boots": {"type": "boolean"},
        "size": {"type": "integer", "minimum": 10, "maximum": 16384},
    },
    "POST /object-storage/buckets": {
        "endpoint_type": {"enum": ["E0", "E1", "E2", "E3"]},
        "s3_endpoint": {"type": "string"},
        "cluster": {"type": "string"},
    },
    "PUT /account/settings": {
        "interfaces_for_new_linodes": {"type": "string"},
        "maintenance_policy": {"type": "string"},
    },
}
_NO_LONGER_REQUIRED = {
    "POST /linode/instances": {"root_pass"},
    "POST /object-storage/buckets": {"cluster"},
}


class Schema:
    """The schema of every request body in a file such as openapi-v4.json."""

    def __init__(self, spec: Path) -> None:
        self._bodies: dict[str, Draft202012Validator | None] = {}
        for path, methods in json.loads(spec.read_bytes())["paths"].items():
            for method, operation in methods.items():
                if method in ("post", "put", "delete", "get"):
                    name = f"{method.upper()} {_shape(path.partition('}')[2])}"
                    self._bodies[name] = _validator(name, operation)

    def violations(self, method: str, path: str, body: JSON) -> list[str]:
        """What is wrong with a request, in words; `path` with names in braces, and no version."""
        name = f"{method} {_shape(path)}"
        if name not in self._bodies:
            return []  # younger than the schema
        validator = self._bodies[name]
        if validator is None:
            return [f"{name} takes no body"] if body else []
        return [
            f"{name}: {'.'.join(map(str, error.absolute_path)) or 'body'}: {error.message}"
            for error in validator.iter_errors(body)
        ]


def _shape(path: str) -> str:
    return re.sub(r"{[^}]*}", "{}", path)


def _validator(name: str, operation: JSON) -> Draft202012Validator | None:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return None
    schema = _translated(content["schema"])
    schema.setdefault("properties", {}).update(_NEWER.get(name, {}))
    required = set(schema.get("required", [])) - _NO_LONGER_REQUIRED.get(name, set())
    return Draft202012Validator(schema | {"required": sorted(required)})


def _translated(node: Any) -> Any:
    """OpenAPI 3.0's dialect in JSON Schema's words: `nullable`, and `allOf` as one object.

    The parts of an `allOf` forbid each other's fields, so that only together they mean anything.
    """
    if isinstance(node, list):
        return [_translated(part) for part in node]
    if not isinstance(node, dict):
        return node
    node = {key: _translated(value) for key, value in node.items() if key != "format"}
    for part in node.pop("allOf", []):
        node = _merged(part, node)
    if node.pop("nullable", False) is True and isinstance(node.get("type"), str):
        node["type"] = [node["type"], "null"]
        if "enum" in node:
            node["enum"] = [*node["enum"], None]
    if node.get("type") == "object" and node.get("properties"):
        node.setdefault("additionalProperties", False)
    return node


def _merged(one: JSON, other: JSON) -> JSON:
    merged = one | other
    for key in set(one) & set(other):
        if isinstance(one[key], dict) and isinstance(other[key], dict):
            merged[key] = _merged(one[key], other[key])
        elif key == "required":
            merged[key] = [*one[key], *other[key]]
    return merged
