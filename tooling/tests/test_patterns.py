from pathlib import Path

import pytest

from tooling.findings import NotAssessed
from tooling.patterns import Pattern, patterns


def of(folder: Path, code: str) -> list[Pattern]:
    (folder / "planted.py").write_text(code)
    return patterns(folder, "planted.py")


@pytest.mark.parametrize(
    ("code", "source", "flags"),
    [
        ("re.search('a+', text)", "a+", ""),
        ("re.search(rb'[\\x80-\\xff]\\n', data)", r"[\x80-\xff]\n", ""),
        ("re.match('a|b', text)", "^(?:a|b)", ""),
        ("re.fullmatch(r'(?P<n>a)(?P=n)', text, re.I | re.S)", r"^(?:(?<n>a)\k<n>)$", "is"),
        ("A = re.compile('a+', flags=re.M)\nA.search(text)\nA.fullmatch(text)", "a+", "m"),
        ("A = re.compile('a+')\nA.fullmatch(text)", "^(?:a+)$", ""),
        ("Title = Annotated[str, Meta(pattern='a+')]", "a+", ""),
        (r"Meta(pattern=r'a$(?!\n)')", "a$", ""),
        ("A = re.compile('^a+$')\nHEADER = {'pattern': A.pattern}\nMeta(pattern=A.pattern)", "^a+$", ""),
        (r"HEADER = {'pattern': '\\Aa+\\Z'}", "^a+$", ""),
    ],
)
def test_a_pattern_is_analysed_as_it_is_applied(tmp_path: Path, code: str, source: str, flags: str) -> None:
    assert [(pattern.source, pattern.flags) for pattern in of(tmp_path, code)] == [(source, flags)]


@pytest.mark.parametrize(
    "code", ["re.compile(A + 'b')", "Meta(pattern=A)", "re.compile('a', re.X)", "re.sub(f'{a}', b, c)"]
)
def test_a_pattern_that_cannot_be_analysed_is_named(tmp_path: Path, code: str) -> None:
    with pytest.raises(NotAssessed, match=r"planted\.py:1"):
        of(tmp_path, code)
