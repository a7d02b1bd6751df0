"""What the server takes from the machine."""

import resource

import pytest

from service_kit import gthread, server


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "places"),
    [
        (1024, 1024, 1024, 924),
        (1024, 2000, 2000, 1900),
        (1024, 1 << 20, gthread.PLACES + server.SPARE_FILES, gthread.PLACES),
        (1 << 20, 1 << 20, 1 << 20, gthread.PLACES),
        (1024, resource.RLIM_INFINITY, gthread.PLACES + server.SPARE_FILES, gthread.PLACES),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY, gthread.PLACES),
    ],
)
def test_there_are_as_many_places_as_file_descriptors_and_the_soft_limit_is_raised_for_them(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int, places: int
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    assert server.places() == places
    assert limits[-1] == (raised, hard)
