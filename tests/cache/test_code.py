"""Fingerprints of code: blind to what changes nothing, and over all modules of ours that are imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from split_matching.cache.code import module_closure

CODE = '''"""Doc."""
import math

LIMIT = 3
NAME = "area"


def area(r: float) -> float:
    """Area."""
    # a comment
    return math.pi * r**2


class Empty:
    """Only a docstring."""
'''


def fingerprint(tmp_path: Path, text: str) -> str:
    path = tmp_path / "stages" / f"m{abs(hash(text))}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return module_closure(f"stages.{path.stem}", root=tmp_path)[f"stages/{path.name}"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Doc."""', '"""Another text."""'),
        ('"""Doc."""\n', ""),
        ("    # a comment\n", ""),
        ("    # a comment\n", "\n\n    # two\n    # lines\n"),
        ('    """Area."""\n', ""),
        ('    """Only a docstring."""\n', "    pass\n"),
        ('NAME = "area"', "NAME = u'area'  # type: str"),
        ("math.pi * r**2", "(math.pi *\n            r ** 2)"),
    ],
)
def test_cosmetic_edit_keeps_the_fingerprint(tmp_path: Path, old: str, new: str) -> None:
    assert old in CODE
    assert fingerprint(tmp_path, CODE.replace(old, new)) == fingerprint(tmp_path, CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("LIMIT = 3", "LIMIT = None"),
        ("r**2", "2**r"),
        ("import math\n", "import math\n\nimport cmath\n"),
    ],
)
def test_real_edit_changes_the_fingerprint(tmp_path: Path, old: str, new: str) -> None:
    assert old in CODE
    assert fingerprint(tmp_path, CODE.replace(old, new)) != fingerprint(tmp_path, CODE)


def test_a_string_that_is_no_docstring_counts(tmp_path: Path) -> None:
    assert fingerprint(tmp_path, 'x = "a"\n') != fingerprint(tmp_path, 'x = "b"\n')


def test_closure_follows_all_local_imports(tmp_path: Path) -> None:
    files = {
        "stages/__init__.py": "",
        "stages/a.py": (
            "from split_matching.stages.sub import c\nimport numpy\n\n"
            "def f():\n    from split_matching.model.deep import g\n"
        ),
        "stages/sub/__init__.py": "from . import d\n",
        "stages/sub/c.py": "from .. import b\n",
        "stages/sub/d.py": "",
        "stages/b.py": "import split_matching.cache.keys\n",
        "stages/unused.py": "",
        "model/__init__.py": "",
        "model/deep.py": "import split_matching.stages.a\n",
        "cache/keys.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    expected = ["model/__init__.py", "model/deep.py", "stages/__init__.py", "stages/a.py", "stages/b.py"]
    expected += ["stages/sub/__init__.py", "stages/sub/c.py", "stages/sub/d.py"]
    assert list(module_closure("split_matching.stages.a", root=tmp_path)) == expected
