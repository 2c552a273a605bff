"""Options refuse what cannot be, all at once, and tell the next step."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import subprocess
import sys
import typing

import pytest

from rewarden import RewardenError, options
from rewarden.options import AuditOptions, DataOptions, EstimateOptions, LensOptions, LoadOptions, ScoreOptions, resolve

CLASSES = [value for value in vars(options).values() if dataclasses.is_dataclass(value) and isinstance(value, type)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_field_has_one_sentence(cls):
    documented = {}
    for base in reversed(cls.__mro__[:-1]):  # what is said of an inherited field holds, until it is said anew
        for field, after in itertools.pairwise(ast.parse(inspect.getsource(base)).body[0].body):
            if isinstance(field, ast.AnnAssign):
                documented[field.target.id] = ast.literal_eval(after.value) if isinstance(after, ast.Expr) else ""
    assert set(documented) == {field.name for field in dataclasses.fields(cls)}
    assert [text for text in documented.values() if not text.endswith(".") or "\n" in text] == []


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_frozen_and_default_constructible(cls):
    assert cls() == cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().level = 1


WORDS = [(cls, field.name) for cls in CLASSES for field in dataclasses.fields(cls)
         if str(field.type).startswith("Literal") and not str(field.type).endswith("None")]


@pytest.mark.parametrize(("cls", "name"), WORDS, ids=lambda value: getattr(value, "__name__", value))
def test_another_word_than_the_choices_is_refused(cls, name):
    with pytest.raises(RewardenError, match=f"{name}='another'") as error:
        cls(**{name: "another"})
    words = typing.get_args(typing.get_type_hints(cls)[name])
    assert error.value.why == f"{name} must be one of {', '.join(words)}"


@pytest.mark.parametrize(("make", "named"), [
    (lambda: LoadOptions(dtype="fp8", bos="two", max_length=1), ["dtype='fp8'", "bos='two'", "max_length=1"]),
    (lambda: LoadOptions(model="org/rm", trust_remote_code=True), ["trust_remote_code", "revision="]),
    (lambda: DataOptions(limit=0), ["limit=0", "share"]),
    (lambda: DataOptions(limit=2.5), ["limit=2.5"]),
    (lambda: DataOptions(columns="prompt:question"), ["columns", "prompt=NAME"]),
    (lambda: ScoreOptions(batch_size=0), ["batch_size=0", "auto"]),
    (lambda: ScoreOptions(batch_size="big", level=95), ["batch_size='big'", "level=95"]),
    (lambda: LensOptions(level=1.0, resamples=1, seed=-1), ["level", "resamples", "seed"]),
    (lambda: AuditOptions(lens_pairs=1), ["lens_pairs=1", "two pairs"]),
    (lambda: AuditOptions(patch_pairs=1), ["patch_pairs=1", "two pairs"]),
    (lambda: EstimateOptions(sites="q5", alpha=1, method="magic", steps=0), ["sites=('q5',)", "alpha=1", "magic", "steps=0"]),
])
def test_impossible_options_are_named_together(make, named):
    with pytest.raises(RewardenError) as error:
        make()
    assert [part for part in named if part not in str(error.value)] == []


def test_remote_code_is_allowed_with_a_pinned_revision_or_a_folder(tmp_path):
    assert LoadOptions(model="org/rm", revision="a" * 40, trust_remote_code=True).trust_remote_code
    assert LoadOptions(model=str(tmp_path), trust_remote_code=True).trust_remote_code


def test_resolve_overrides_win_over_options():
    merged = resolve(LensOptions, LensOptions(seed=3, level=0.8), {"level": 0.9})
    assert merged == LensOptions(seed=3, level=0.9)
    assert resolve(LensOptions, None, {}) == LensOptions()


def test_resolve_checks_the_merged_options():
    with pytest.raises(RewardenError, match="level=2"):
        resolve(LensOptions, None, {"level": 2})


def test_resolve_lists_all_unknown_names_with_the_nearest():
    with pytest.raises(RewardenError) as error:
        resolve(LensOptions, None, {"levl": 0.9, "sead": 1, "level": 0.9})
    assert error.value.what == "unknown options 'levl', 'sead'"
    assert error.value.fix == "'levl' -> 'level'; 'sead' -> 'seed'"


def test_resolve_refuses_options_of_another_verb():
    with pytest.raises(RewardenError, match="ScoreOptions where LensOptions is expected"):
        resolve(LensOptions, ScoreOptions(), {})


def test_column_names():
    assert DataOptions(columns="prompt=q, chosen=good").column_names == {"prompt": "q", "chosen": "good"}


def test_importing_options_brings_nothing_heavy():
    heavy = "('torch', 'numpy', 'pandas', 'cyclopts')"
    code = f"import sys, rewarden.options; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
