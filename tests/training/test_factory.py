"""Functions named in a configuration."""

from __future__ import annotations

import math

import pytest

from rewarden.errors import RewardenError
from rewarden.training.factory import find, make


def test_functions_of_modules_and_files_are_found(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def build(tokenizer, scale):\n    return lambda value: (tokenizer, scale * value)\n")
    assert find("math:hypot") is math.hypot
    assert make(f"{path}:build", "the tokenizer", {"scale": 3})(2) == ("the tokenizer", 6)


@pytest.mark.parametrize(("name", "match"), [
    ("", "names no function"), (None, "names no function"), ("math", "names no function"), ("math:", "names no function"),
    ("math:pi+1", "names no function"), ("math:pi", "no function 'pi'"), ("nowhere.at.all:f", "cannot be imported"),
    ("nowhere.py:f", "cannot be imported")])
def test_other_names_are_refused(name, match):
    with pytest.raises(RewardenError, match=match):
        find(name)
