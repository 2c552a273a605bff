"""Rows of every supported layout become exactly the pairs they mean; what cannot be one is named by row and column."""

from __future__ import annotations

import gzip
import json
import random

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rewarden.conversation import Pair
from rewarden.errors import RewardenError, RewardenWarning
from rewarden.preferences import iterate_pairs, load_pairs, schema_of
from rewarden.preferences.files import MAX_ROW_BYTES
from rewarden.preferences.schema import FORMATS
from rewarden.preferences.transcripts import parse_transcript

PLAIN = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def sides(pair):
    """Both conversations as plain lists: what a model is shown."""
    return [[dict(message) for message in conversation.messages] for conversation in pair.conversations]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


LAYOUTS = {
    "rewardbench": ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go", "subset": "mt-bench-easy", "id": 7,
                     "chosen_model": "a"},
                    [user("Hi"), assistant("Hello")], [user("Hi"), assistant("Go")]),
    "ultrafeedback: whole conversations beside their prompt": (
        {"prompt": "Hi", "prompt_id": "x", "chosen": [user("Hi"), assistant("Hello")],
         "rejected": [user("Hi"), assistant("Go")], "messages": [user("Hi"), assistant("Hello")]},
        [user("Hi"), assistant("Hello")], [user("Hi"), assistant("Go")]),
    "skywork: whole conversations alone": (
        {"chosen": [user("a"), assistant("b"), user("c"), assistant("d")],
         "rejected": [user("a"), assistant("b"), user("c"), assistant("e")], "source": "s"},
        [user("a"), assistant("b"), user("c"), assistant("d")], [user("a"), assistant("b"), user("c"), assistant("e")]),
    "conversations that part before the last turn": (
        {"chosen": [user("a"), assistant("b"), user("c"), assistant("d")], "rejected": [user("a"), assistant("e")]},
        [user("a"), assistant("b"), user("c"), assistant("d")], [user("a"), assistant("e")]),
    "trl: prompt messages, new turns": (
        {"prompt": [{"role": "system", "content": "s"}, user("a")], "chosen": [assistant("b")],
         "rejected": [assistant("c")]},
        [{"role": "system", "content": "s"}, user("a"), assistant("b")],
        [{"role": "system", "content": "s"}, user("a"), assistant("c")]),
    "new turns of several messages": (
        {"prompt": "a", "chosen": [assistant("b"), user("c"), assistant("d")], "rejected": [assistant("e")]},
        [user("a"), assistant("b"), user("c"), assistant("d")], [user("a"), assistant("e")]),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt", "value": "b"},
         "rejected": {"from": "gpt", "value": "c"}},
        [user("a"), assistant("b")], [user("a"), assistant("c")]),
    "alpaca: instruction with an input": (
        {"instruction": "Translate.", "input": "chat", "chosen": "cat", "rejected": "dog"},
        [user("Translate.\nchat"), assistant("cat")], [user("Translate.\nchat"), assistant("dog")]),
    "alpaca: no input": (
        {"instruction": "Rhyme.", "input": "", "chosen": "cat, hat", "rejected": "dog"},
        [user("Rhyme."), assistant("cat, hat")], [user("Rhyme."), assistant("dog")]),
    "hh-rlhf": (
        {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c: d\n\nAssistant: e",
         "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c: d\n\nAssistant: f\n\ng"},
        [user("a"), assistant("b"), user("c: d"), assistant("e")],
        [user("a"), assistant("b"), user("c: d"), assistant("f\n\ng")]),
    "hh-rlhf with the prompt apart": (
        {"prompt": "\n\nHuman: a\n\nAssistant:", "chosen": " b", "rejected": " c"},
        [user("a"), assistant("b")], [user("a"), assistant("c")]),
    "lists of one": (
        {"question": "a", "chosen": ["b"], "rejected": ["c"]},
        [user("a"), assistant("b")], [user("a"), assistant("c")]),
    "a prompt per side": (
        {"prompt": "a", "chosen": "b", "rejected": "c", "rejected_prompt": "d"},
        [user("a"), assistant("b")], [user("d"), assistant("c")]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_give_the_conversations_they_mean(name):
    row, chosen, rejected = LAYOUTS[name]
    (pair,) = load_pairs([row])
    assert sides(pair) == [chosen, rejected]


def test_labels_and_metadata_are_kept():
    (pair,) = load_pairs([LAYOUTS["rewardbench"][0]])
    assert (pair.id, pair.subset, dict(pair.metadata)) == ("7", "mt-bench-easy", {"chosen_model": "a"})


@pytest.mark.parametrize("styles", [{"chosen": "short", "rejected": "long"}, ["short", "long"]])
def test_named_styles_become_metadata(styles):
    (pair,) = load_pairs([{**PLAIN, "styles": styles}])
    assert dict(pair.metadata) == {"styles": styles, "style_chosen": "short", "style_rejected": "long"}


def test_rewardbench2_gives_every_right_with_every_wrong():
    row = {"id": "tied:3", "prompt": "A colour?", "chosen": ["red", "blue"], "rejected": ["dog", "cat", "4"],
           "num_correct": 2, "subset": "Ties"}
    pairs = load_pairs([row])
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [
        (right, wrong) for right in ("red", "blue") for wrong in ("dog", "cat", "4")]
    assert dict(pairs[4].metadata) == {"num_correct": 2, "item": "tied:3", "candidates": [2, 3],
                                       "candidate_chosen": 1, "candidate_rejected": 1}
    assert [pair.id for pair in pairs][:2] == ["tied:3/0-0", "tied:3/0-1"]


def test_rmbench_gives_nine_comparisons():
    row = {"id": 8, "prompt": "Why?", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"], "domain": "chat"}
    pairs = load_pairs([row])
    assert [(pair.chosen + pair.rejected, pair.metadata["style_chosen"], pair.metadata["style_rejected"])
            for pair in pairs] == [(good + bad, i, j) for i, good in enumerate("abc") for j, bad in enumerate("def")]
    assert {(pair.subset, pair.metadata["item"]) for pair in pairs} == {("chat", "8")}


def test_three_by_three_with_a_count_is_best_of_n():
    row = {"prompt": "Why?", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"], "num_correct": 3}
    assert schema_of([row]).layout == "best-of-n"


def test_format_and_columns_win_over_detection():
    row = {"prompt": "not this", "ask": "2+2?", "best": "4", "worst": "5", "chosen": 1}
    (pair,) = load_pairs([row], columns={"prompt": "ask", "chosen": "best", "rejected": "worst"})
    assert sides(pair) == [[user("2+2?"), assistant("4")], [user("2+2?"), assistant("5")]]
    assert dict(pair.metadata) == {"prompt": "not this", "chosen": 1}
    grid = {"prompt": "Why?", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"]}
    assert {name: "style_chosen" in load_pairs([grid], format=name)[0].metadata for name in FORMATS
            if FORMATS[name] in ("best-of-n", "style-grid")} == {
        "best-of-n": False, "rewardbench2": False, "style-grid": True, "rm-bench": True}


def test_own_rows_in_several_styles_are_pairs_or_a_grid():
    styles = {"chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"]}
    rows = [{**PLAIN, "id": "x", "styles": styles}, {**PLAIN, "id": "y"}]
    assert [(pair.id, pair.chosen, dict(pair.metadata)) for pair in load_pairs(rows)] == [
        ("x", "4", {"styles": styles}), ("y", "4", {})]
    grid = load_pairs(rows, format="style-grid")
    assert [(pair.id, pair.chosen + pair.rejected) for pair in grid] == [
        (f"x/{i}-{j}", a + b) for i, a in enumerate("abc") for j, b in enumerate("def")]
    assert dict(grid[5].metadata) == {"item": "x", "candidates": [3, 3], "style_chosen": 1, "style_rejected": 2}
    with pytest.raises(RewardenError) as caught:
        load_pairs([rows[0], {**PLAIN, "styles": "markdown"}], format="style-grid")
    assert caught.value.why.startswith("row 2, column 'styles': no mapping with 'chosen' and 'rejected'")


def test_the_bundled_set():
    pairs, grid = load_pairs("demo"), load_pairs("demo", format="style-grid")
    assert len({pair.id for pair in pairs}) == len(pairs) == len(load_pairs("demo", split="train")) + len(
        load_pairs("demo", split="test"))
    styled = [pair for pair in pairs if "styles" in pair.metadata]
    assert len(pairs) == 385
    assert len(grid) == 9 * len(styled) == 1242
    assert {pair.metadata["item"] for pair in grid} == {pair.id for pair in styled}


def test_two_turns_of_one_speaker_stay_two():
    assert [message["role"] for message in parse_transcript("\n\nHuman: a\n\nHuman: b\n\nAssistant: c")] == [
        "user", "user", "assistant"]


def test_schema_says_what_was_decided():
    assert str(schema_of([{"instruction": "a", "input": "b", "chosen": "c", "rejected": "d", "category": "e"}])) == (
        "layout pairs: prompt = 'instruction', context = 'input', chosen = 'chosen', rejected = 'rejected', "
        "subset = 'category'")


# --- sources ---------------------------------------------------------------------------------------------------------

ROWS = [{"id": str(i), "prompt": f"p {i}", "chosen": f"c {i}", "rejected": f"r {i}",
         "subset": ("even", "odd")[i % 2], "split": ("train", "test")[i // 4]} for i in range(6)]
EXPECTED = [(row["id"], row["prompt"], row["chosen"], row["rejected"], row["subset"]) for row in ROWS]


def fields(pairs):
    return [(pair.id, pair.prompt, pair.chosen, pair.rejected, pair.subset) for pair in pairs]


def as_csv(path):
    pd.DataFrame(ROWS).to_csv(path, index=False)


def as_gz(text):
    return gzip.compress(text.encode())


JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
WRITERS = {
    "a.jsonl": lambda path: path.write_text(JSONL),
    "blank lines and a mark.jsonl": lambda path: path.write_text("\ufeff" + JSONL.replace("\n", "\n\n")),
    "a.jsonl.gz": lambda path: path.write_bytes(as_gz(JSONL)),
    "a.ndjson": lambda path: path.write_text(JSONL),
    "list.json": lambda path: path.write_text(json.dumps(ROWS)),
    "under a key.json": lambda path: path.write_text(json.dumps({"version": 1, "data": ROWS})),
    "lines.json": lambda path: path.write_text(JSONL),
    "list.json.gz": lambda path: path.write_bytes(as_gz(json.dumps(ROWS))),
    "a.csv": as_csv,
    "a.csv.gz": lambda path: path.write_bytes(as_gz(pd.DataFrame(ROWS).to_csv(index=False))),
    "a.tsv": lambda path: path.write_text(pd.DataFrame(ROWS).to_csv(index=False, sep="\t")),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
    "UPPER.JSONL": lambda path: path.write_text(JSONL),
}


@pytest.mark.parametrize("name", WRITERS)
def test_file_formats_agree(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](path)
    assert fields(load_pairs(path)) == EXPECTED
    assert fields(load_pairs(str(path), split="test", subset="odd")) == [EXPECTED[5]]
    assert fields(load_pairs(path, limit=2)) == EXPECTED[:2]


def test_sources_in_memory_agree():
    import datasets

    dataset = datasets.Dataset.from_list(ROWS)
    sources = [ROWS, tuple(ROWS), iter(ROWS), dataset, pd.DataFrame(ROWS), datasets.DatasetDict({"only": dataset}),
               {"only": ROWS}, load_pairs(ROWS), iter(load_pairs(ROWS))]
    assert [fields(load_pairs(source)) for source in sources] == [EXPECTED] * len(sources)
    parts = datasets.DatasetDict({"a": dataset, "b": dataset.select([1])})
    assert fields(load_pairs(parts, split="b")) == [EXPECTED[1]]
    assert fields(load_pairs(ROWS, subset=["odd", "none"])) == EXPECTED[1::2]


def test_json_document_of_splits(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"train": ROWS[:4], "test": ROWS[4:]}))
    assert fields(load_pairs(path, split="test")) == EXPECTED[4:]
    with pytest.raises(RewardenError, match="no list of rows") as caught:
        load_pairs(path)
    assert "['test', 'train']" in caught.value.why


def test_hub_ids_ask_for_a_split_and_never_for_remote_code(monkeypatch):
    import datasets

    calls = []
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config: ["raw", "filtered"])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: calls.append((args, kwargs)) or ROWS)
    assert fields(load_pairs("allenai/reward-bench")) == EXPECTED
    assert fields(load_pairs("owner/name:part", split="raw")) == EXPECTED
    assert calls == [(("allenai/reward-bench", None), {"split": "filtered", "streaming": True}),
                     (("owner/name", "part"), {"split": "raw", "streaming": True})]
    with pytest.raises(RewardenError, match="several splits") as caught:
        load_pairs("owner/name")
    assert caught.value.why == "splits: raw, filtered"


def test_hub_failure_is_one_error(monkeypatch):
    import datasets

    def offline(name, config):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "get_dataset_split_names", offline)
    with pytest.raises(RewardenError, match="cannot load data set 'owner/name'") as caught:
        load_pairs("owner/name")
    assert caught.value.why == "ConnectionError: no route"


def test_streaming_reads_no_further_than_asked():
    given = []

    def endless():
        while True:
            given.append(1)
            yield PLAIN

    pairs = iterate_pairs(endless())
    assert [next(pairs).chosen for _ in range(3)] == ["4"] * 3
    assert len(given) < 30
    assert len(load_pairs(endless(), limit=50)) == 50


# --- bad input -------------------------------------------------------------------------------------------------------

BAD_ROWS = {
    "empty chosen": ({**PLAIN, "chosen": ""}, "column 'chosen': empty"),
    "blank rejected": ({**PLAIN, "rejected": " \n\t"}, "column 'rejected': empty"),
    "blank prompt": ({**PLAIN, "prompt": " "}, "column 'prompt': empty"),
    "null": ({**PLAIN, "chosen": None}, "column 'chosen': missing"),
    "absent": ({"prompt": "a", "chosen": "b"}, "column 'rejected': missing"),
    "number": ({**PLAIN, "chosen": 4}, "column 'chosen': of type int, expected text"),
    "number as prompt": ({**PLAIN, "prompt": 4.5}, "column 'prompt': of type float, expected text"),
    "empty list": ({**PLAIN, "chosen": []}, "column 'chosen': empty"),
    "empty prompt list": ({**PLAIN, "prompt": []}, "column 'prompt': empty"),
    "several responses": ({**PLAIN, "chosen": ["a", "b"]}, "column 'chosen': a list of 2, expected one response"),
    "message without content": ({**PLAIN, "prompt": [{"role": "user"}]}, "message 0 is not a mapping with"),
    "content in parts": ({**PLAIN, "prompt": [{"role": "user", "content": [{"type": "text"}]}]},
                         "column 'prompt': message 0 has content of type list"),
    "ends with the user": ({**PLAIN, "chosen": [user("a"), assistant("b"), user("c")]},
                           "column 'chosen': ends with a turn of 'user'"),
    "half a surrogate pair": ({**PLAIN, "chosen": "\ud800"}, "half of a surrogate pair"),
    "not a mapping": (["a"], "a row must be a mapping of columns, not list"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_are_named_and_can_be_skipped(name):
    row, message = BAD_ROWS[name]
    with pytest.raises(RewardenError, match="1 bad row in") as caught:
        load_pairs([PLAIN, row, PLAIN])
    assert caught.value.why.startswith("row 2")
    assert message in caught.value.why
    with pytest.warns(RewardenWarning, match="skipped 1 of 3 rows"):
        assert [pair.chosen for pair in load_pairs([PLAIN, row, PLAIN], on_error="skip")] == ["4", "4"]


def test_bad_rows_of_lists_are_named():
    grid = {"prompt": "Why?", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"]}
    bad = [{**grid, "chosen": ["a", "b"]}, {**grid, "rejected": ["d", "", "f"]}, {**grid, "chosen": 3},
           {**grid, "rejected": ["d", None, "f"]}, {**grid, "prompt": None}, {**grid, "chosen": None}]
    with pytest.raises(RewardenError) as caught:
        load_pairs([PLAIN], format="style-grid")
    assert caught.value.why.startswith("row 1, column 'chosen': one response, expected one for each style")
    with pytest.raises(RewardenError, match="5 bad rows or more") as caught:
        load_pairs([grid, *bad])
    assert caught.value.why.split(". Read as")[0].split("; ") == [
        "row 2, column 'chosen': 2 styles of chosen and 3 of rejected responses (a style grid is square)",
        "row 3, column 'rejected[1]': empty",
        "row 4, column 'chosen': of type int, expected a list of responses",
        "row 5, column 'rejected[1]': missing",
        "row 6, column 'prompt': missing"]


def test_json_lines_report_line_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(PLAIN) + '\n\n{"prompt": \n' + "[" * 100_000 + "\n" + json.dumps(PLAIN) + "\n"
                    + '{"prompt": ' + "9" * 5000 + "}\n")
    with pytest.raises(RewardenError, match="3 bad rows") as caught:
        load_pairs(path)
    assert [problem.split(": ")[0] for problem in caught.value.why.split(". Read as")[0].split("; ")] == [
        "row 3", "row 4", "row 6"]
    assert "row 4: JSON nested too deeply; row 6: JSON with a number of thousands of digits" in caught.value.why


TRUNCATED = {
    "a.jsonl.gz": (lambda: as_gz(JSONL * 50)[:-40], "copy or download the file again"),
    "b.jsonl.gz": (lambda: b"no gzip at all", "copy or download the file again"),
    "c.jsonl.gz": (lambda: bytes(b ^ 0x55 if 20 < i < 60 else b for i, b in enumerate(as_gz(JSONL * 50))),
                   "copy or download the file again"),
    "a.parquet": (lambda: b"PAR1 and no more", "copy or download the file again"),
    "b.parquet": (lambda: b"", "copy or download the file again"),
    "latin.jsonl": (lambda: '{"prompt": "caf\xe9"}\n'.encode("latin-1"), "convert it: iconv -f ENCODING -t UTF-8 IN > OUT"),
    "a.json": (lambda: b'[{"prompt": "a"', "a .json file holds one list of rows; one row per line is .jsonl"),
    "b.json": (lambda: b"[" * 100_000 + b"]" * 100_000, "a .json file holds one list of rows; one row per line is .jsonl"),
    "c.json": (lambda: b"3", "a .json file holds one list of rows"),
    "a.csv": (lambda: b'prompt,chosen,rejected\n"never closed,b,c\n', "check the quotes on that line"),
    "unknown.xlsx": (lambda: b"x", "rename or convert the file"),
    "a.parquet.gz": (lambda: b"x", "rename or convert the file"),
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_damaged_files_are_one_error_naming_the_file(name, tmp_path):
    path = tmp_path / name
    damaged, fix = TRUNCATED[name]
    path.write_bytes(damaged())
    with pytest.raises(RewardenError) as caught:
        load_pairs(path)
    assert name in caught.value.where
    assert caught.value.fix == fix


def test_truncated_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS * 100), path)
    content = path.read_bytes()
    for cut in (len(content) - 3, len(content) // 2, 10):
        path.write_bytes(content[:cut])
        with pytest.raises(RewardenError, match="not a readable Parquet file"):
            load_pairs(path)


def test_a_gzip_bomb_is_refused_early(tmp_path):
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b"0" * (MAX_ROW_BYTES + 2)))
    with pytest.raises(RewardenError, match="longer than"):
        load_pairs(path)
    with pytest.raises(RewardenError, match="longer than"):
        load_pairs(path.rename(tmp_path / "bomb.csv.gz"))


def test_csv_rows_of_another_width(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected\na,b,c\nd,e\nf,g,h,i\n")
    with pytest.raises(RewardenError) as caught:
        load_pairs(path)
    assert caught.value.why.startswith("row 2: 2 cells under a header of 3; row 3: 4 cells under a header of 3")


def test_csv_cells_longer_than_the_module_allows(tmp_path):
    import csv

    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected\na," + "b" * 200_000 + ",c\n")
    before = csv.field_size_limit()
    assert len(load_pairs(path)[0].chosen) == 200_000
    assert csv.field_size_limit() == before


def test_csv_lists_are_json(tmp_path):
    path = tmp_path / "a.csv"
    pd.DataFrame([{"prompt": "Why?", "chosen": json.dumps(["a", "b", "c"]), "rejected": json.dumps(["d", "e", "f"])}]
                 ).to_csv(path, index=False)
    assert [pair.chosen + pair.rejected for pair in load_pairs(path)] == [a + b for a in "abc" for b in "def"]


MISTAKES = {
    "missing file": (("nowhere.jsonl",), {}, "no such file", "check the path"),
    "missing folder": (("no/such/folder/../a.jsonl",), {}, "no such file", "check the path"),
    "neither file nor id": (("what is this",), {}, "neither a file nor a data set id",
                            'check the path, or pass "demo" for the bundled set'),
    "traversal is only a missing file": (("../../../../../../nowhere/passwd.jsonl",), {}, "no such file", "check the path"),
    "another type": ((3,), {}, "cannot read preferences from int",
                     'pass a path, "demo", a data set id, a datasets.Dataset or an iterable of mappings'),
    "one row": ((PLAIN,), {}, "a single row", "pass a list: [row]"),
    "no rows": (([],), {}, "no pairs", "check the file"),
    "text": (([{"text": "a"}],), {}, "no column for the prompt and the chosen and the rejected",
             'map them: columns={"prompt": "'),
    "limit": (([PLAIN],), {"limit": 0}, "limit=0", "pass at least 1, or None for all"),
    "format": (([PLAIN],), {"format": "xml"}, "unknown format 'xml'", "pass one of them, or leave it at 'auto'"),
    "on_error": (([PLAIN],), {"on_error": "ignore"}, "unknown on_error", 'pass "raise" or "skip"'),
    "split": (([PLAIN],), {"split": "test"}, "no column 'split'", "leave out split=, or add the column"),
    "other split": (([{**PLAIN, "split": "train"}],), {"split": "test"}, "no row of split 'test'", "pass split= one of them"),
    "subset": (([{**PLAIN, "subset": "a"}],), {"subset": "b"}, "no pairs", "check the file, subset= and split="),
    "role": (([PLAIN],), {"columns": {"answer": "chosen"}}, "columns= does not fit", 'pass columns={"prompt": "'),
    "column": (([PLAIN],), {"columns": {"chosen": "best"}}, "columns= does not fit", 'pass columns={"prompt": "'),
    "all rows bad": (([3, 4],), {"on_error": "skip"}, "no pairs", "check the file"),
    "pairs and rows mixed": (([Pair("a", "b", "c"), PLAIN],), {}, "item 1 is dict", "pass either pairs or mappings"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_the_caller(name):
    args, kwargs, message, fix = MISTAKES[name]
    with pytest.raises(RewardenError, match=message) as caught:
        load_pairs(*args, **kwargs)
    assert caught.value.fix.startswith(fix)


def test_missing_columns_say_what_was_looked_for_and_how_to_map():
    with pytest.raises(RewardenError) as caught:
        load_pairs([{"prompt": "a", "more": "b", "less": "c"}])
    assert str(caught.value) == (
        "no column for the chosen and the rejected\n"
        "  where: list\n"
        "  why:   columns found: prompt, more, less; looked for chosen: chosen, chosen_response, preferred; "
        "rejected: rejected, rejected_response, dispreferred\n"
        '  fix:   map them: columns={"chosen": "<column>", "rejected": "<column>"}, or --columns chosen=<column>,'
        'rejected=<column>')


def test_a_folder_lists_its_data_files(tmp_path):
    lines(tmp_path / "a.jsonl", [PLAIN])
    with pytest.raises(RewardenError, match="is a folder") as caught:
        load_pairs(tmp_path)
    assert caught.value.why == "data files inside: a.jsonl"


def mutants(content, count=150):
    """Seeded copies of a file with bytes changed, cut out, put in, or the end missing."""
    rng = random.Random(0)
    for _ in range(count):
        mutant = bytearray(content)
        for _ in range(rng.choice([1, 1, 5])):
            at = rng.randrange(len(mutant) or 1)
            change = rng.randrange(4)
            mutant[at:at + 1] = [bytes([rng.randrange(256)]), b"", rng.randbytes(9), bytes(mutant[at:at + 1])][change]
            if change == 3:
                del mutant[at:]
        yield bytes(mutant)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "list.json", "a.csv", "a.parquet"])
def test_mutated_files_give_pairs_or_one_kind_of_error(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](path)
    refused = []
    for mutant in mutants(path.read_bytes()):
        path.write_bytes(mutant)
        try:
            assert all(pair.chosen.strip() for pair in load_pairs(path))
        except RewardenError as error:
            refused.append(error)
    assert len(refused) > 15
    assert all(name in error.where for error in refused)
