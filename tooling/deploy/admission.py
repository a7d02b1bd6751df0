"""Which images the cluster lets into the namespace: the base's ValidatingAdmissionPolicy, filled in for a deploy."""

import re
from collections.abc import Collection, Sequence

from tooling.deploy.kube import Object

POLICY, BINDING = "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"


def fill(objects: Sequence[Object], image: str, others: Collection[str], namespace: str) -> None:
    """Let the policy of `objects` allow the deployed image's repository by digest, and `others` as they are written.

    An image without a registry's digest, as it is copied into a cluster of one's own, is allowed by its name and any
    tag that is the beginning of an image's id. The image of the load test, which runs in the same namespace, lies
    beside the service's. Policies are of the whole cluster: each namespace has one of its own.
    """
    name, separator, _ = image.partition("@") if "@" in image else image.rpartition(":")
    digest = "@sha256:[0-9a-f]{64}"
    version, load = (digest, digest) if separator == "@" else (":[0-9a-f]{12}", ":latest")
    own = [f"{re.escape(name)}{version}", f"{re.escape(name)}-load{load}"]
    patterns = [*own, *(re.escape(other) for other in sorted({image, *others}))]
    for item in objects:
        if item["kind"] not in {POLICY, BINDING}:
            continue
        item["metadata"]["name"] = f"{namespace}-images"
        if item["kind"] == POLICY:
            (allowed,) = (one for one in item["spec"]["variables"] if one["name"] == "allowed")
            allowed["expression"] = "[" + ", ".join(_literal(pattern) for pattern in patterns) + "]"
        else:
            item["spec"]["policyName"] = f"{namespace}-images"
            selector = item["spec"]["matchResources"]["namespaceSelector"]
            selector["matchLabels"] = {"kubernetes.io/metadata.name": namespace}


def _literal(text: str) -> str:
    """Write a string for CEL, in which a raw string has no escapes."""
    return f"r'{text}'"
