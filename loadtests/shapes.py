"""How the load goes over time: each shape is a list of stages, in shares of the peak."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """So many seconds at this share of the peak."""

    seconds: float
    share: float


SHAPES: dict[str, Sequence[Stage]] = {
    "steady": [Stage(60, 1)],
    "step": [Stage(30, share / 5) for share in range(1, 6)],
    "spike": [Stage(60, 0.2), Stage(30, 1), Stage(60, 0.2)],
    "soak": [Stage(3600, 0.6)],
    # Two pods are enough, then five and more are needed, then two again: the last stage has to outlast the HPA's
    # stabilization before scaling down (5 minutes unless set) and the pods' removal.
    "hpa": [Stage(60, 0.1), Stage(240, 1), Stage(480, 0.05)],
}


def seconds(shape: str) -> float:
    """Return a shape's own length."""
    return sum(stage.seconds for stage in SHAPES[shape])


def share(shape: str, after: float, length: float | None = None) -> float | None:
    """Return the share of the peak, `after` seconds into a shape stretched to `length` seconds; None once it is over.

    Raises KeyError for a shape that does not exist.
    """
    stretch = (length or seconds(shape)) / seconds(shape)
    for stage in SHAPES[shape]:
        after -= stage.seconds * stretch
        if after < 0:
            return stage.share
    return None
