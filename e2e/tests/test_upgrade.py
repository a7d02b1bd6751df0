"""What the proof of a major upgrade deploys."""

import pytest
import yaml

from e2e.upgrade import following, next_major
from tooling.deploy import manifests
from tooling.project import service


@pytest.mark.parametrize(
    ("image", "after"),
    [
        (
            "registry.example.com:17/postgresql:17-minimal-trixie",
            "registry.example.com:17/postgresql:18-minimal-trixie",
        ),
        ("postgres:17.9-trixie@sha256:17171717", "postgres:18.9-trixie"),  # whose digest is another one
    ],
)
def test_the_next_major_version_is_another_tag_of_the_same_image(image: str, after: str) -> None:
    assert following(image) == after


def test_the_upgrade_changes_the_server_and_the_programs_of_the_backup() -> None:
    overlay = manifests.with_database(manifests.overlay_folder(service(), "kind"), "replicated")
    with next_major(overlay) as folder:
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    (image,), (patch,) = kustomization["images"], kustomization["patches"]
    (change,) = yaml.safe_load(patch["patch"])
    assert (image["newTag"], change["value"]) == ("18-trixie", "ghcr.io/cloudnative-pg/postgresql:18-minimal-trixie")
