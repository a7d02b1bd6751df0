"""Read from the source: whoever imports Locust has the standard library patched."""

import ast

from tooling.project import ROOT

USERS = ast.parse((ROOT / "loadtests/users.py").read_text())
LOCUSTFILE = ast.parse((ROOT / "loadtests/locustfile.py").read_text())


def assigned(body: list[ast.stmt], name: str) -> ast.expr | None:
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value
    return None


def test_every_kind_of_user_counts_for_the_rate_and_is_on_locusts_page() -> None:
    kinds = {node.name for node in USERS.body if isinstance(node, ast.ClassDef) and assigned(node.body, "weight")}
    counted = assigned(USERS.body, "KINDS")
    assert isinstance(counted, ast.Tuple)
    assert {ast.unparse(one) for one in counted.elts} == kinds
    imported = {
        alias.name
        for node in LOCUSTFILE.body
        if isinstance(node, ast.ImportFrom) and node.module == "loadtests.users"
        for alias in node.names
    }
    assert imported == kinds | {"Yardstick"}
