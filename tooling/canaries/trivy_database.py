"""A vulnerability database for Trivy that holds what a canary plants: a bbolt file (format 2) and its metadata.

Trivy reads the buckets `data-source` (bucket to its makers), `vulnerability` (CVE to what it is), and one an ecosystem,
that holds package, then CVE, then which versions. The metadata names it as a fixture, and every report repeats that.
"""

import json
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

PAGE = 4096
BUCKET, LEAF, META, FREELIST = 0x01, 0x02, 0x04, 0x10
MAGIC, VERSION = 0xED0CDAED, 2
NAME = "planted CVEs"

Tree = dict[str, "Tree | bytes"]


def advisories(distribution: str) -> Tree:
    """Return the planted advisories: Flask 0.12 and OpenSSL before 3.0.11 of the distribution, e.g. "debian 13"."""

    def encoded(value: object) -> bytes:
        return json.dumps(value).encode()

    python = "pip::GitHub Security Advisory Pip"
    return {
        "data-source": {
            python: encoded({"ID": "ghsa", "Name": "planted", "URL": "https://github.com/advisories"}),
            distribution: encoded({"ID": "debian", "Name": "planted", "URL": "https://security-tracker.debian.org"}),
        },
        "vulnerability": {
            "CVE-2018-1000656": encoded({"Title": "Flask: denial of service", "Severity": "HIGH"}),
            "CVE-2023-5363": encoded({"Title": "OpenSSL: incorrect cipher key length", "Severity": "HIGH"}),
        },
        python: {
            "flask": {"CVE-2018-1000656": encoded({"PatchedVersions": ["0.12.3"], "VulnerableVersions": ["<0.12.3"]})}
        },
        distribution: {"openssl": {"CVE-2023-5363": encoded({"FixedVersion": "3.0.11-1"})}},
    }


def write(cache: Path, tree: Tree, *, age: timedelta = timedelta()) -> None:
    """Write the database and its metadata where Trivy looks for them in its cache; `age` is the database's."""
    folder = cache / "db"
    folder.mkdir(parents=True)
    (folder / "trivy.db").write_bytes(bolt(tree))
    updated = (datetime.now(UTC) - age).isoformat()
    later = (datetime.now(UTC) + timedelta(days=3650)).isoformat()
    metadata: dict[str, Any] = {"Version": 2, "UpdatedAt": updated, "NextUpdate": later, "DownloadedAt": updated}
    (folder / "metadata.json").write_text(json.dumps(metadata | {"Fixture": NAME}))


def bolt(tree: Tree) -> bytes:
    """Return a bbolt file that holds the tree: two meta pages, an empty freelist, one leaf page a bucket."""
    pages: list[bytes] = []

    def store(bucket: Tree) -> int:
        entries = []
        for key, value in bucket.items():
            is_bucket = isinstance(value, dict)
            content = struct.pack("<QQ", store(value), 0) if isinstance(value, dict) else value
            entries.append((key.encode(), content, is_bucket))
        number = 3 + sum(len(page) // PAGE for page in pages)
        pages.append(leaf(number, sorted(entries)))
        return number

    root = store(tree)
    high_water = 3 + sum(len(page) // PAGE for page in pages)
    metas = []
    for transaction in (0, 1):
        fields = (MAGIC, VERSION, PAGE, 0, root, 0, 2, high_water, transaction)
        body = struct.pack("<IIIIQQQQQ", *fields)
        metas.append(page(transaction, META, 0, body + struct.pack("<Q", fnv1a(body))))
    return b"".join([*metas, page(2, FREELIST, 0, b""), *pages])


def leaf(number: int, entries: list[tuple[bytes, bytes, bool]]) -> bytes:
    """Return a leaf page: a table of its elements, then their keys and values."""
    table, data = b"", b""
    for index, (key, value, is_bucket) in enumerate(entries):
        offset = 16 * (len(entries) - index) + len(data)
        table += struct.pack("<IIII", BUCKET if is_bucket else 0, offset, len(key), len(value))
        data += key + value
    return page(number, LEAF, len(entries), table + data)


def page(number: int, kind: int, count: int, content: bytes) -> bytes:
    """Return one page with its header, overflowing into as many more as it needs."""
    size = -(-(16 + len(content)) // PAGE)
    return (struct.pack("<QHHI", number, kind, count, size - 1) + content).ljust(size * PAGE, b"\0")


def fnv1a(content: bytes) -> int:
    """Return the 64-bit FNV-1a hash, with which a meta page vouches for itself."""
    digest = 0xCBF29CE484222325
    for byte in content:
        digest = ((digest ^ byte) * 0x100000001B3) & (2**64 - 1)
    return digest
