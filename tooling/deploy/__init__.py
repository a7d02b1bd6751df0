"""From an empty machine to a scaled and verified service: what `invoke deploy` and its siblings do.

`release` holds the order of the steps; `cluster` is the local kind cluster, `manifests` what is applied, `kube` how,
`rollout` waits and explains, `verify` proves, `backup` saves and restores, `steps` shows and records the progress.
"""

from tooling.project import ROOT, ToolingError

K8S = ROOT / "k8s"


class DeployError(ToolingError):
    """A deploy cannot continue. The message has the reason and the remedy; `evidence` is the cluster's own output."""

    def __init__(self, message: str, evidence: str = "") -> None:
        super().__init__(message)
        self.evidence = evidence
