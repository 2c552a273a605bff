"""Files of others: read as pandas or the json module reads them; each kind of damage gives one error with row and column."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.tokens.words.loaders import (
    identity_terms,
    load_descriptors,
    load_elo,
    load_word_lists,
    load_word_values,
    word_grid,
)

HEAD = "elo_rank,elo_score,name,elo_matches,m1,m2\n"


def written(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("file", "rho"), [
    ("one_single_thing.csv", [.2932, .3323, .4047, .3915, .3738, .3452, .3741, .5411, .3765, .3586]),
    ("one_word.csv", [.3227, .3144, .3281, .4493, .4702, .4580, .3803, .5465, .4998, .4268]),
    ("humans_most_prefer.csv", [.1431, .2758, .3275, .2719, .3026, .3101, .2133, .4352, .2596, .3212])])
def test_eloeverything_as_published(shared_data, file, rho):
    path = shared_data / "eloeverything" / file
    found, frame = load_elo(path), pd.read_csv(path, keep_default_na=False)
    assert found.items == frame["name"].tolist()
    assert found.models == frame.columns[4:].tolist()
    np.testing.assert_array_equal(found.human, frame["elo_score"])
    np.testing.assert_array_equal(found.matches, frame["elo_matches"])
    np.testing.assert_array_equal(found.scores, frame[found.models])
    assert (len(found.items), np.median(found.matches), found.human.min(), found.human.max()) == (7530, 287, 717, 1669)
    ours = [stats.spearmanr(found.human, column).statistic for column in found.scores.T]
    np.testing.assert_allclose(ours, rho, atol=1e-4)


def test_names_with_commas_and_quotes(tmp_path):
    path = written(tmp_path, "e.csv", "\ufeff" + HEAD + '1,1600,"Gödel, Escher, Bach",10,1,2\r\n\n2,1500,"""Hi""",9,-1,3e-2\n')
    found = load_elo(path)
    assert found.items == ["Gödel, Escher, Bach", '"Hi"']
    assert found.scores.tolist() == [[1, 2], [-1, 0.03]]


def test_people_only(tmp_path):
    found = load_elo(written(tmp_path, "e.csv", "elo_rank,elo_score,name,elo_matches\n1,1600,Water,10\n"))
    assert (found.models, found.scores.shape, found.human.tolist()) == ([], (1, 0), [1600])


@pytest.mark.parametrize(("text", "message"), [
    ("", "columns missing: elo_rank, elo_score, name, elo_matches"),
    ("elo_rank,elo_score,item,elo_matches\n1,2,a,3\n", "columns missing: name"),
    (HEAD, "no row below the head"),
    ("elo_rank,elo_score,name,elo_matches,m1,m1\n1,2,a,3,4,5\n", "a column is there twice"),
    (HEAD + "1,1600,Water,10,1\n", "row 2.*5 cells where the head has 6"),
    (HEAD + "1,1600,a, b,10,1,2\n", "row 2.*7 cells where the head has 6"),
    (HEAD + "1,1600,Water,10,1,2\n2,high,Air,10,1,2\n", "row 3, column elo_score.*'high' is no finite number"),
    (HEAD + "1,1600,Water,10,1,\n", "row 2, column m2.*'' is no finite number"),
    (HEAD + "1,1600,Water,10,nan,2\n", "row 2, column m1.*'nan' is no finite number"),
    (HEAD + "1,1600,Water,1.5,1,2\n", "row 2, column elo_matches.*'1.5' is no count"),
    (HEAD + "1,1600,Water,-1,1,2\n", "row 2, column elo_matches.*'-1' is no count"),
    (HEAD + "1,1600,Water,10,1,2\n\n2,1500,Water,10,1,2\n", "row 4, column name.*'Water' is also in row 2"),
    (HEAD + "1,1600, ,10,1,2\n", "row 2, column name.*no name"),
    (HEAD + '1,1600,"Water,10,1,2\n', "row 2.*unexpected end of data")])
def test_damaged_elo_tables(tmp_path, text, message):
    with pytest.raises(RewardenError, match=f"(?s){message}"):
        load_elo(written(tmp_path, "e.csv", text))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.csv").write_bytes(HEAD.encode() + b"1,1600,G\xf6del,10,1,2\n")
    for load, name in ((load_elo, "none.csv"), (load_elo, "latin.csv"), (load_descriptors, "none.json"),
                       (load_word_lists, "none.dic"), (load_word_values, "none.tsv")):
        with pytest.raises(RewardenError, match=f"cannot read {name}"):
            load(tmp_path / name)


def test_holisticbias(shared_data):
    path = shared_data / "identity" / "holisticbias_v1.1_descriptors.json"
    found = load_descriptors(path)
    counts = {"ability": 38, "age": 61, "body_type": 144, "characteristics": 67, "cultural": 33, "gender_and_sex": 65,
              "nationality": 26, "nonce": 8, "political_ideologies": 23, "race_ethnicity": 32, "religion": 49,
              "sexual_orientation": 20, "socioeconomic_class": 17}
    assert {axis: len(words) for axis, words in found.items()} == counts
    assert sum(counts.values()) == 583
    text = path.read_text(encoding="utf-8")
    assert [word for words in found.values() for word in words if f'"{word}"' not in text] == []


@pytest.mark.parametrize(("text", "message"), [
    ("{", "row 1, column 2"), ("[]", "expected a dict"), ("{}", "expected a dict"),
    ('{"age": ["young"]}', "where: age.*expected a dict of groups"),
    ('{"age": {"a": "young"}}', "where: age / a.*expected a list"),
    ('{"age": {"a": ["young", {"word": "old"}]}}', "where: age / a, entry 2.*expected a text"),
    ('{"age": {"a": [" "]}}', "where: age / a, entry 1"), ('{"age": {}}', "expected at least one descriptor"),
    ('{"age": {"a": ["x"]}, "age": {"a": ["y"]}}', "'age'.*each key once")])
def test_damaged_descriptors(tmp_path, text, message):
    with pytest.raises(RewardenError, match=f"(?s){message}"):
        load_descriptors(written(tmp_path, "d.json", text))


LISTS = {"care": ["kind*", "mercy", "good faith"], "harm": ["cruel", "kind*"]}
FORMS = {
    "a.json": json.dumps(LISTS),
    "long.csv": "Word,Category\nkind*,care\nmercy,care\ngood faith,care\ncruel,harm\nkind*,harm\nmercy,care\n",
    "long.tsv": "foundation\tword\ncare\tkind*\ncare\tmercy\ncare\tgood faith\nharm\tcruel\nharm\tkind*\n",
    "wide.csv": "care,harm\nkind*,cruel\nmercy,kind*\ngood faith,\n",
    "tabs.dic": "%\n1\tcare\n2\tharm\n%\nkind*\t1\t2\nmercy\t1\ngood faith\t1\ncruel\t2\n",
    "crlf.dic": "%\r\n1 care\r\n2 harm\r\n%\r\nkind*\t1 2\r\nmercy 1\r\ngood faith\t1\r\ncruel 2\r\n\r\n"}


@pytest.mark.parametrize("name", FORMS)
def test_one_dictionary_in_every_format(tmp_path, name):
    found = load_word_lists(written(tmp_path, name, FORMS[name]))
    assert {category: set(words) for category, words in found.items()} == {k: set(v) for k, v in LISTS.items()}
    assert sum(map(len, found.values())) == 5


@pytest.mark.parametrize(("name", "text", "message"), [
    ("a.txt", "x", r"\.txt; known are \.json, \.dic, \.csv, \.tsv"), ("a", "x", "none; known are"),
    ("a.json", '{"care": "kind"}', "where: care.*a list of words"), ("a.json", '{"care": [1]}', "a list of words"),
    ("a.json", '{"care": ["ki*nd"]}', r"'ki\*nd' is no word"), ("a.json", '{"care": ["*"]}', r"'\*' is no word"),
    ("a.json", '{"care": []}', "no words"), ("a.csv", "", "no words"), ("a.csv", "care,harm\n", "no words"),
    ("a.csv", "word,category\nkind,care\nmercy,\n", "row 3.*fill in both"),
    ("a.csv", "word,kind of\nkind,care\n", "row 1.*name one column word and one category"),
    ("a.csv", "care,harm\nkind,cruel,extra\n", "row 2.*a column without a name"),
    ("a.csv", 'care\n"kind\n', "row 2.*unexpected end"),
    ("a.dic", "kind\t1\n", "two lines of %"), ("a.dic", "%\ncare\n%\nkind 1\n", "row 2.*write a number, a tab"),
    ("a.dic", "%\n1\tcare\n%\nkind\t1\ncruel\t7\n", "row 5.*category 7 is not in the list"),
    ("a.dic", "%\n1\tcare\n%\nkind\n", "row 4.*no category")])
def test_damaged_word_lists(tmp_path, name, text, message):
    with pytest.raises(RewardenError, match=f"(?s){message}"):
        load_word_lists(written(tmp_path, name, text))


@pytest.mark.parametrize("text", [
    "love\t3\nit's \"ok\"\t-1.5\n", "word\tvalue\nlove\t3\nit's \"ok\"\t-1.5\n", 'love,3\n"it\'s ""ok""",-1.5\n',
    'a,b\nlove,3\n"it\'s ""ok""",-1.5\n', "id\tTerm\tn\tValence\n1\tlove\t9\t3\n2\tit's \"ok\"\t9\t-1.5\n",
    "love\t3\t0.5\t[1, 2]\nit's \"ok\"\t-1.5\t0.1\t[0]\n"])
def test_values_of_words(tmp_path, text):
    found = [(row.word, row.value) for row in load_word_values(written(tmp_path, "w", text))]
    assert found == [("love", 3), ('it\'s "ok"', -1.5)]


@pytest.mark.parametrize(("text", "message"), [
    ("", "no words"), ("word,value\n", "no words"), ("love\t3\nhate\tbad\n", "row 2, column value.*'bad'"),
    ("love\t3\nhate\n", r"row 2.*\['hate'\]"), ("love\t3\n\t2\n", "row 2"), ("love\t3\nhate\tinf\n", "row 2, column value"),
    ("love\t3\nhate\t1_0\n", "row 2, column value"), ("a,b,c\nlove,x,3\n", "row 1.*name a column word or term")])
def test_damaged_values(tmp_path, text, message):
    with pytest.raises(RewardenError, match=f"(?s){message}"):
        load_word_values(written(tmp_path, "w", text))


def test_our_own_lists():
    terms, grid = identity_terms(), word_grid()
    assert (len(terms), sum(map(len, terms.values()))) == (9, 123)
    assert [len(words) for words in grid.values()] == [25] * 8
    for lists in (terms, grid):
        words = [word.casefold() for listed in lists.values() for word in listed]
        assert len(set(words)) == len(words)
        assert [word for word in words if not re.fullmatch("[a-z]+(-[a-z]+)?", word)] == []


def test_our_own_words_are_in_use():
    wordfreq = pytest.importorskip("wordfreq")
    words = [word for lists in (identity_terms(), word_grid()) for listed in lists.values() for word in listed]
    assert [word for word in words if wordfreq.zipf_frequency(word, "en") < 1] == []
