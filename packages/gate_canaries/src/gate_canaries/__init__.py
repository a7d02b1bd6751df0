"""Canaries for gates: a planted defect for each gate, and the exact finding that the gate must report.

A gate that was never seen red may be one that cannot be. `Suite` is what most need; the README begins with an example.
"""

from gate_canaries.canaries import Canary, Proof, prove, prove_all
from gate_canaries.gates import Finding, Gate, Outcome, Reader, command, lines, sarif
from gate_canaries.suites import Result, Suite

__all__ = [
    "Canary",
    "Finding",
    "Gate",
    "Outcome",
    "Proof",
    "Reader",
    "Result",
    "Suite",
    "command",
    "lines",
    "prove",
    "prove_all",
    "sarif",
]
