"""Which new passwords are refused for being guessed easily (NIST SP 800-63B, section 3.1.1.2)."""

import importlib.util
from functools import cache
from itertools import pairwise
from pathlib import Path

SHORTEST_WORD = 4
NAME = "task-api"
MOST_CHARACTERS = 0x110000


@cache
def common() -> frozenset[str]:
    """Return the 30,000 most common passwords, which zxcvbn ships. Its own module would load 100,000 words more."""
    package = importlib.util.find_spec("zxcvbn")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).with_name("frequency_lists.py")
    spec = importlib.util.spec_from_file_location("task_api_frequency_lists", path)
    assert spec is not None
    assert spec.loader is not None
    lists = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lists)
    return frozenset(lists.FREQUENCY_LISTS["passwords"])


def check_password(password: str, email: str) -> None:
    """Raise ValueError for a password that is on a list of common ones, or is little more than a guessable word.

    Upper case, digits and signs before or after a word, and its repetition, do not make it any better.
    """
    lower = password.lower()
    local, _, domain = email.lower().partition("@")
    guessed = {local, domain, domain.partition(".")[0], NAME, email.lower()}
    if any(_common(text, guessed) for text in {lower, _bare(lower), _period(lower), _bare(_period(lower))}):
        raise ValueError("the password is common, or contains little beside a common word, a name or an address")
    modulus = 10 if lower.isdecimal() else MOST_CHARACTERS  # 0 follows 9
    if len({(ord(after) - ord(before)) % modulus for before, after in pairwise(lower)}) == 1:
        raise ValueError("the password is a sequence of characters")


def _common(text: str, guessed: set[str]) -> bool:
    return len(text) >= SHORTEST_WORD and (text in guessed or text in common())


def _bare(text: str) -> str:
    """Return the text from its first letter to its last."""
    letters = [index for index, character in enumerate(text) if character.isalpha()]
    return text[letters[0] : letters[-1] + 1] if letters else ""


def _period(text: str) -> str:
    """Return the shortest text whose repetition is this one: itself in most cases."""
    return text[: (text + text).find(text, 1)]
