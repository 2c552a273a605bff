"""Word data of others, as their files hold it: human ranks, descriptors, value dictionaries, one value for each word.

In: a path. Out: plain lists, dicts and arrays, or one error that names the row and the column. Also the project's own two
small lists. Ignorant of models, tokens and of what the words are used for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rewarden.errors import RewardenError
from rewarden.tokens.words.files import FilePath, bad_row, bad_shape, cells_of, is_number, json_object, number_in, read_text

ELO_COLUMNS = ("elo_rank", "elo_score", "name", "elo_matches")
"""First columns of an EloEverything table; every further one is a model."""

WORD_NAMES = ("word", "term", "token", "lemma")
VALUE_NAMES = ("value", "valence", "score", "frequency", "freq", "per_million", "count")
CATEGORY_NAMES = ("category", "foundation", "list", "axis")
"""Names of columns that are understood, without regard to case."""


@dataclass(frozen=True, eq=False)
class HumanReference:
    """Items that people ranked, and what reward models gave them.

    Attributes:
        items: names [item], in the file's order.
        human: float64 [item], Elo points; more is preferred.
        matches: int64 [item], comparisons behind each Elo.
        models: names [model]; empty where the file has people only.
        scores: float64 [item, model], each model in its own units.
    """

    items: list[str]
    human: np.ndarray
    matches: np.ndarray
    models: list[str]
    scores: np.ndarray


class WordValue(NamedTuple):
    """One row of a table of words."""

    row: int
    """Line of the file, counted from 1."""
    word: str
    """As written."""
    value: float
    """Finite."""


def load_elo(path: FilePath) -> HumanReference:
    """Read a table in the format of EloEverything: elo_rank, elo_score, name, elo_matches, then one column for each model.

    Raises:
        RewardenError: missing columns, a short row, a cell that is no number, an item that is there twice.

    Source: brchristian/reward_model_optimal_pessimal_tokens (arXiv 2506.07326).

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "elo.csv"
        >>> _ = file.write_text("elo_rank,elo_score,name,elo_matches,m\\n1,1669,Universe,1372,2.5\\n2,1661,Water,1883,2.2\\n")
        >>> found = load_elo(file)
        >>> found.items, found.human.tolist(), found.models, found.scores.tolist()
        (['Universe', 'Water'], [1669.0, 1661.0], ['m'], [[2.5], [2.2]])
    """
    rows = list(cells_of(path, ","))
    head = rows[0][1] if rows else []
    missing = [name for name in ELO_COLUMNS if name not in head]
    if missing or len(rows) < 2:
        raise RewardenError(f"{Path(path).name} is no EloEverything table", where="row 1",
                            why=f"columns missing: {', '.join(missing)}" if missing else "there is no row below the head",
                            fix=f"give it the columns {','.join(ELO_COLUMNS)} and one for each model")
    models = [name for name in head if name not in ELO_COLUMNS]
    if len(set(head)) < len(head):
        raise RewardenError("a column is there twice", where=f"{Path(path).name}, row 1", fix="give each model its own name")
    at = {name: head.index(name) for name in head}
    items: dict[str, int] = {}
    human, matches, scores = [], [], []
    for row, cells in rows[1:]:
        if len(cells) != len(head):
            raise bad_row(path, row, None, f"{len(cells)} cells where the head has {len(head)}", "quote names that hold commas")
        number = lambda name, row=row, cells=cells: number_in(path, row, name, cells[at[name]])
        name = cells[at["name"]]
        if not name.strip() or name in items:
            raise bad_row(path, row, "name", f"{name!r} is also in row {items[name]}" if name in items else "no name",
                       "keep one row for each item")
        items[name] = row
        count = number("elo_matches")
        if count < 0 or count != int(count):
            raise bad_row(path, row, "elo_matches", f"{cells[at['elo_matches']]!r} is no count", "write a whole number")
        human.append(number("elo_score"))
        matches.append(int(count))
        scores.append([number(model) for model in models])
    return HumanReference(list(items), np.array(human), np.array(matches, np.int64), models,
                          np.array(scores, np.float64).reshape(len(items), len(models)))


def load_descriptors(path: FilePath) -> dict[str, list[str]]:
    """Read identity descriptors in the format of HolisticBias: axis -> group -> descriptors (texts or {"descriptor": text}).

    Returns:
        Descriptors of each axis in the file's order; one that two groups of an axis share is listed once.

    Raises:
        RewardenError: no JSON, or another shape; says at which axis and group.

    Source: facebookresearch/ResponsibleNLP, holistic_bias v1.1 (583 descriptors, 13 axes; CC BY-SA 4.0, not shipped here).

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "d.json"
        >>> _ = file.write_text('{"ability": {"auditory": ["Deaf", {"descriptor": "hard-of-hearing"}]}}')
        >>> load_descriptors(file)
        {'ability': ['Deaf', 'hard-of-hearing']}
    """
    found: dict[str, list[str]] = {}
    for axis, groups in json_object(path).items():
        if not isinstance(groups, dict):
            raise bad_shape(path, axis, "a dict of groups", groups)
        for group, entries in groups.items():
            if not isinstance(entries, list):
                raise bad_shape(path, f"{axis} / {group}", "a list of descriptors", entries)
            for number, entry in enumerate(entries, start=1):
                text = entry.get("descriptor") if isinstance(entry, dict) else entry
                if not isinstance(text, str) or not text.strip():
                    raise bad_shape(path, f"{axis} / {group}, entry {number}", 'a text or {"descriptor": text}', entry)
                found.setdefault(axis, []).append(text.strip())
    if not found:
        raise bad_shape(path, "the whole file", "at least one descriptor", found)
    return {axis: list(dict.fromkeys(texts)) for axis, texts in found.items()}


def load_word_lists(path: FilePath) -> dict[str, list[str]]:
    """Read a dictionary of categories and their words.

    Args:
        path: by its ending: .json ({category: [words]}); .dic (LIWC: categories between two lines of %, then word and
            category numbers); .csv or .tsv, with a column of words and one of categories, or with one column for each category.

    Returns:
        Words of each category as written, the `*` of a stem kept, repeated ones once.

    Raises:
        RewardenError: an unknown ending, a row that cannot be read, an unknown category number, no words.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "values.dic"
        >>> _ = file.write_text("%\\n1\\tcare\\n2\\tharm\\n%\\nkind*\\t1\\ncruel\\t2\\n")
        >>> load_word_lists(file)
        {'care': ['kind*'], 'harm': ['cruel']}
    """
    readers: dict[str, Callable[[Any], Iterator[tuple[str, str]]]] = {
        ".json": _json_lists, ".dic": _dic_lists, ".csv": lambda file: _table_lists(file, ","),
        ".tsv": lambda file: _table_lists(file, "\t")}
    ending = Path(path).suffix.lower()
    if ending not in readers:
        raise RewardenError(f"{Path(path).name} is no word list that is understood", where="its ending",
                            why=f"{ending or 'none'}; known are {', '.join(readers)}", fix="rename or convert the file")
    found: dict[str, dict[str, None]] = {}
    for category, word in readers[ending](path):
        if word.strip("* ") == "" or "*" in word.strip()[:-1]:
            raise RewardenError(f"{word!r} is no word", where=f"{Path(path).name}, category {category!r}",
                                fix="write a word; * stands for any ending, at the end only")
        found.setdefault(category, {})[word.strip()] = None
    if not found:
        raise RewardenError("no words", where=Path(path).name, fix="give at least one category with one word")
    return {category: list(words) for category, words in found.items()}


def load_word_values(path: FilePath) -> list[WordValue]:
    """Read one value for each word: a lexicon of valences or a table of frequencies.

    Args:
        path: tab-separated where the first row holds a tab, else comma-separated. Word and value are the first two columns;
            with a head they are found by name (word, value, valence, score, freq, per_million …).

    Raises:
        RewardenError: a value that is no finite number, a row without word, no rows, a head with unknown names.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "words.tsv"
        >>> _ = file.write_text("love\\t3\\nhate\\t-3\\n")
        >>> [(row.word, row.value) for row in load_word_values(file)]
        [('love', 3.0), ('hate', -3.0)]
    """
    first = read_text(path).lstrip("\n").partition("\n")[0]
    rows = list(cells_of(path, "\t" if "\t" in first else ","))
    word_at, value_at = 0, 1
    if rows and len(rows[0][1]) > 1 and not is_number(rows[0][1][1]):
        head = [cell.strip().casefold() for cell in rows.pop(0)[1]]
        if len(head) > 2 or set(head) & {*WORD_NAMES, *VALUE_NAMES}:
            word_at, value_at = (_column(path, head, names) for names in (WORD_NAMES, VALUE_NAMES))
    found = []
    for row, cells in rows:
        if len(cells) <= max(word_at, value_at) or not cells[word_at].strip():
            raise bad_row(path, row, None, f"{cells!r:.80}", "write a word, a tab or comma, and its value")
        found.append(WordValue(row, cells[word_at], number_in(path, row, "value", cells[value_at])))
    if not found:
        raise RewardenError("no words", where=Path(path).name, fix="write a word, a tab and its value in each row")
    return found


def identity_terms() -> dict[str, list[str]]:
    """The project's own identity terms: 123 on nine axes, in neutral wording; some have other meanings too (black, straight).

    Example:
        >>> {axis: len(terms) for axis, terms in identity_terms().items()}["religion"]
        14
    """
    return _own("identity_terms", "axes")


def word_grid() -> dict[str, list[str]]:
    """The project's own value words: eight categories of 25 nouns, none in two of them.

    Example:
        >>> ", ".join(word_grid())
        'care, fairness, loyalty, authority, agency, communion, achievement, pleasure'
    """
    return _own("word_grid", "categories")


def _own(name: str, key: str) -> dict[str, list[str]]:
    file = resources.files("rewarden.tokens.words").joinpath("lists", f"{name}.json")
    return json.loads(file.read_text(encoding="utf-8"))[key]


def _json_lists(path: FilePath) -> Iterator[tuple[str, str]]:
    for category, words in json_object(path).items():
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise bad_shape(path, category, "a list of words", words)
        yield from ((category, word) for word in words)


def _table_lists(path: FilePath, delimiter: str) -> Iterator[tuple[str, str]]:
    """Long tables (a column of words and one of categories) or wide ones (a column for each category, empty cells below)."""
    rows = list(cells_of(path, delimiter))
    head = [cell.strip() for cell in rows[0][1]] if rows else []
    known = [name.casefold() for name in head]
    words, groups = ([i for i, name in enumerate(known) if name in names] for names in (WORD_NAMES, CATEGORY_NAMES))
    if bool(words) != bool(groups):
        raise bad_row(path, 1, None, f"the head is {', '.join(head)}", "name one column word and one category; or let the head "
                      "be the names of the categories")
    for row, cells in rows[1:]:
        if any(cell.strip() and not (i < len(head) and head[i]) for i, cell in enumerate(cells)):
            raise bad_row(path, row, None, "a cell in a column without a name", "give each column a head")
        if words and groups:
            if len(cells) <= max(words[0], groups[0]) or not cells[words[0]].strip() or not cells[groups[0]].strip():
                raise bad_row(path, row, None, f"{cells!r:.80}", "fill in both the word and the category")
            yield cells[groups[0]].strip(), cells[words[0]]
        else:
            yield from ((head[i], cell) for i, cell in enumerate(cells) if cell.strip())


def _dic_lists(path: FilePath) -> Iterator[tuple[str, str]]:
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]
    marks = [i for i, (_, line) in enumerate(lines) if line == "%"]
    if len(marks) < 2 or marks[0] != 0:
        raise bad_row(path, 1, None, "no list of categories between two lines of %", "write % / number, tab, category / %")
    names: dict[str, str] = {}
    for row, line in lines[1:marks[1]]:
        key, _, name = line.replace("\t", " ").partition(" ")
        if not key.isdigit() or not name.strip():
            raise bad_row(path, row, None, f"{line!r}", "write a number, a tab and the name of the category")
        names[key] = name.strip()
    for row, line in lines[marks[1] + 1:]:
        cells = line.split()
        ids = [cell for cell in line.split("\t")[1:] for cell in cell.split()] if "\t" in line else cells[1:]
        word = line.split("\t")[0] if "\t" in line else cells[0]
        unknown = [key for key in ids if key not in names]
        if unknown or not ids:
            why = f"category {', '.join(unknown)} is not in the list above" if unknown else "no category"
            raise bad_row(path, row, None, f"{line!r}: {why}", "write the word, a tab and category numbers")
        yield from ((names[key], word) for key in ids)


def _column(path: FilePath, head: Sequence[str], names: Sequence[str]) -> int:
    for name in names:
        if name in head:
            return head.index(name)
    raise bad_row(path, 1, None, f"the head is {', '.join(head)}", f"name a column {' or '.join(names)}")
