"""What the Kubernetes API writes as text."""

SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
SUFFIXES |= {f"{prefix}i": 1024.0**power for power, prefix in enumerate("KMGTPE", start=1)}


def quantity(text: str) -> float:
    """Return a quantity, such as 250m, 1.5 or 256Mi, as a number. Raises `ValueError` for anything else.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    number = text.rstrip("numkKMGTPEi")
    suffix = text[len(number) :]
    if suffix not in SUFFIXES:
        raise ValueError(f"{text} is no quantity: its suffix is none of {', '.join(filter(None, SUFFIXES))}")
    return float(number) * SUFFIXES[suffix]
