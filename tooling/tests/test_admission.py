"""The admission policy of the base, as a deployment fills it in."""

import re
from typing import Any

import pytest
import yaml

from tooling.deploy import K8S, admission

DIGEST = "@sha256:" + "a" * 64


def filled(image: str, namespace: str = "task-api") -> list[Any]:
    objects = list(yaml.safe_load_all((K8S / "base" / "admission.yaml").read_text()))
    admission.fill(objects, image, {"postgres:17-trixie"}, namespace)
    return objects


def allows(image: str, tried: str) -> bool:
    """Return whether the policy that is filled in for `image` allows the image `tried`."""
    policy, _ = filled(image)
    (expression,) = (one["expression"] for one in policy["spec"]["variables"] if one["name"] == "allowed")
    return any(re.fullmatch(pattern, tried) for pattern in re.findall(r"r'([^']*)'", expression))


@pytest.mark.parametrize(
    ("image", "tried", "allowed"),
    [
        ("ghcr.io/o/task-api" + DIGEST, "ghcr.io/o/task-api@sha256:" + "b" * 64, True),  # the version before
        ("ghcr.io/o/task-api" + DIGEST, "ghcr.io/o/task-api:latest", False),
        ("ghcr.io/o/task-api" + DIGEST, "ghcr.io/stranger/task-api" + DIGEST, False),
        ("ghcr.io/o/task-api" + DIGEST, "ghcr-io/o/task-api" + DIGEST, False),
        ("ghcr.io/o/task-api" + DIGEST, "x/ghcr.io/o/task-api" + DIGEST, False),
        ("ghcr.io/o/task-api" + DIGEST, "postgres:17-trixie", True),
        ("ghcr.io/o/task-api" + DIGEST, "postgres:18", False),
        ("task-api:0123456789ab", "task-api:ba9876543210", True),
        ("task-api:0123456789ab-next", "task-api:0123456789ab-next", True),
        ("task-api:0123456789ab", "task-api:latest", False),
        ("task-api:0123456789ab", "task-api-load:latest", True),
        ("ghcr.io/o/task-api" + DIGEST, "ghcr.io/o/task-api-load" + DIGEST, True),
        ("ghcr.io/o/task-api" + DIGEST, "ghcr.io/o/task-api-load:latest", False),
    ],
)
def test_only_the_repository_by_digest_and_the_overlays_images_are_allowed(
    image: str, tried: str, allowed: bool
) -> None:
    assert allows(image, tried) == allowed


def test_each_namespace_has_a_policy_of_its_own() -> None:
    policy, binding = filled("task-api:0123456789ab", "preview")
    assert policy["metadata"]["name"] == binding["metadata"]["name"] == binding["spec"]["policyName"]
    assert binding["spec"]["matchResources"]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "preview"
    }
