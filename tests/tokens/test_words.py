"""Words, lexicons and frequencies: against the packages' own look-up, brute force and hand-made cases."""

from __future__ import annotations

import fnmatch
import math
import sys

import numpy as np
import pytest
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.tokens.scores import token_scores
from rewarden.tokens.words.frequencies import frequencies
from rewarden.tokens.words.lexicons import Lexicon, afinn, as_lexicon, lexicon_file, vader
from rewarden.tokens.words.matching import normal_text, word_of, words_of
from rewarden.tokens.words.table import match_words, shared_words, word_table


def scan(reward, text, prompts=None, **flags):
    return token_scores(np.atleast_2d(reward), token_id=range(len(text)), text=text,
                        prompts=prompts or [f"p{i}" for i in range(len(np.atleast_2d(reward)))], flags=flags)


@pytest.mark.parametrize(("text", "word"), [
    ("love", "love"), (" Love", "love"), ("\tLOVE\n", "love"), ("don't", "don't"), ("don\u2019t", "don't"),
    ("self-made", "self-made"), ("Straße", "strasse"), ("ﬁne", "fine"), ("é", "é"), ("e\u0301", "é"), ("हिन्दी", "हिन्दी"),
    ("любовь", "любовь"), ("", ""), (" ", ""), ("'s", ""), ("-", ""), ("ing-", ""), ("a--b", ""), ("7", ""), ("b2b", ""),
    ("x_y", ""), ("two words", ""), ("\ufffd", ""), ("<s>", ""), ("##ing", ""), ("\u0301", ""), ("love!", "")])
def test_what_counts_as_a_word(text, word):
    assert word_of(text) == word
    assert word_of(word) == word


def test_tokens_that_are_no_text_have_no_word():
    scores = scan([0, 0, 0], ["love", "love", "love"], special=[True, False, False], byte=[False, True, False])
    assert words_of(scores).tolist() == ["", "", "love"]


def test_the_published_join_misses_what_ours_finds():
    texts = [" love", " Love", "LOVE", "love", " hate", "x1"]
    published = [text.lower() in {"love", "hate"} for text in texts]  # lower case, the space left on
    ours = [word in {"love", "hate"} for word in words_of(scan(np.zeros(6), texts))]
    assert (sum(published), sum(ours)) == (2, 5)


@pytest.fixture
def mixed():
    """60 words spelled in up to five ways, some rewards not finite, in a shuffled order."""
    rng = np.random.default_rng(3)
    words = [a + b + c for a in "bcdf" for b in "aeiou" for c in "mnt"]
    ways = [str, str.upper, str.capitalize, lambda w: " " + w, lambda w: " " + w.upper()]
    texts = [way(word) for word in words for way in ways if rng.random() < 0.6]
    texts += ["!", "12", " "]
    rng.shuffle(texts)
    reward = rng.normal(size=(3, len(texts))).astype(np.float32)
    reward[:, ::17] = np.nan
    reward[1, ::5] = -np.inf
    return reward, texts


def test_a_words_reward_is_the_mean_of_its_tokens(mixed):
    reward, texts = mixed
    table = word_table(scan(reward, texts))
    held: dict[str, list[int]] = {}
    for at, text in enumerate(texts):
        if text.strip().isalpha():
            held.setdefault(text.strip().lower(), []).append(at)
    assert table.words.tolist() == sorted(held)
    assert table.tokens.tolist() == [len(held[word]) for word in sorted(held)]
    for p in range(3):
        for j, word in enumerate(sorted(held)):
            values = [float(reward[p, at]) for at in held[word] if math.isfinite(reward[p, at])]
            expected = sum(values) / len(values) if values else math.nan
            assert table.reward[p, j] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_order_of_candidates_changes_nothing(mixed):
    reward, texts = mixed
    order = np.random.default_rng(0).permutation(len(texts))
    one, other = word_table(scan(reward, texts)), word_table(scan(reward[:, order], [texts[i] for i in order]))
    assert one.words.tolist() == other.words.tolist()
    np.testing.assert_allclose(one.reward, other.reward, atol=1e-12)


def test_prompts_are_chosen_by_number_or_text():
    scores = scan([[1, 2], [3, 4], [5, 6]], ["a", "b"], prompts=["x", "y", "z"])
    assert word_table(scores, ["z", 0]).reward.tolist() == [[5, 6], [1, 2]]
    assert word_table(scores, -1).prompts == ["z"]
    for wrong in ("w", 3, -4):
        with pytest.raises(RewardenError, match="no prompt"):
            word_table(scores, wrong)
    with pytest.raises(RewardenError, match="no prompt was chosen"):
        word_table(scores, [])


def test_scored_responses_are_taken_whole():
    data = xr.Dataset({"reward": (("prompt", "response"), [[1.0, 2.0, 4.0]])},
                      coords={"prompt": ["p"], "response": np.array(["Good faith", "good  Faith", "love"], object)})
    table = word_table(Result("responses", data))
    assert (table.words.tolist(), table.reward.tolist()) == (["good faith", "love"], [[1.5, 4.0]])


def test_a_result_without_words_is_refused():
    with pytest.raises(RewardenError, match="no scores of words"):
        word_table(Result("lens", xr.Dataset({"reward": ("pair", [1.0])})))


def test_words_of_several_scans():
    scans = [scan([0, 0, 0], texts) for texts in ([" Love", "war", "x"], ["love", " peace", "X"], ["LOVE", "x", "1"])]
    assert shared_words(scans) == ["love", "x"]
    assert word_table(scans[0], words=["LOVE", "x"]).words.tolist() == ["love", "x"]
    with pytest.raises(RewardenError, match="no word in common"):
        shared_words([scans[0], scan([0], ["peace"])])


def test_stems_match_as_a_glob_does():
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice(list("abc"), rng.integers(1, 5))) for _ in range(300)]
    patterns = ["ab*", "c", "bca*", "a", "cc*", "abc"]
    expected = [any(fnmatch.fnmatchcase(word, pattern) for pattern in patterns) for word in words]
    assert match_words(patterns, words).tolist() == expected
    assert match_words([], words).sum() == 0


def test_vader_is_the_packages_own():
    own = pytest.importorskip("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer().lexicon
    found = vader()
    expected = {word_of(word): value for word, value in own.items() if word_of(word)}
    assert dict(found.valence) == expected
    assert len(expected) > 7000
    assert (min(expected.values()), max(expected.values())) == (-3.9, 3.4)
    assert found.scale == (-4, 4)


def test_afinn_of_a_file(shared_data):
    path = shared_data / "lexicons" / "AFINN-111.txt"
    expected = dict(line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines())
    found = afinn(path)
    assert {word: str(int(value)) for word, value in found.valence.items()} == expected
    assert (len(expected), found.scale) == (2477, (-5, 5))


def test_afinn_of_the_package_is_read_and_not_run(tmp_path, monkeypatch):
    (tmp_path / "afinn" / "data").mkdir(parents=True)
    (tmp_path / "afinn" / "__init__.py").write_text("raise SystemExit('the package was run')")
    (tmp_path / "afinn" / "data" / "AFINN-111.txt").write_text("love\t3\nhate\t-3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "afinn", raising=False)
    assert dict(as_lexicon("afinn", []).valence) == {"love": 3.0, "hate": -3.0}


def test_missing_packages_say_what_to_type(monkeypatch):
    monkeypatch.setattr("rewarden.tokens.words.lexicons.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(RewardenError, match=r"pip install 'rewarden\[words\]'"):
        vader()
    with pytest.raises(RewardenError, match=r"pip install 'rewarden\[words\]'"):
        frequencies(["love"])
    with pytest.raises(RewardenError, match=r"afinn\('AFINN-111.txt'\)"):
        afinn()


def test_lexicons_of_every_kind(tmp_path):
    file = tmp_path / "mine.tsv"
    file.write_text("Love\t3\nlove\t3\nhate\t-2.5\nno fun\t-3\n")
    read = lexicon_file(file)
    assert (dict(read.valence), read.scale) == ({"love": 3, "hate": -2.5, "no fun": -3}, (-3, 3))
    words = ["love", "hate", "table"]
    expected = [3.0, -2.5, math.nan]
    by_function = lambda word: {"love": 3, "hate": -2.5}.get(word)
    for source in (read, file, str(file), {"LOVE": 3, "hate": -2.5}, by_function):
        np.testing.assert_array_equal(as_lexicon(source, words).of(words), expected)
    assert as_lexicon(None, []).name == as_lexicon("vader", []).name == vader().name
    assert as_lexicon({"a": 1}, []).of(["a"]).tolist() == [1.0]


@pytest.mark.parametrize(("source", "message"), [
    ({"US": 1, "us": 2}, "no single value"), ({"love": math.nan}, "no single value"), ({" ": 1.0}, "no single value"),
    ({}, "no value for any word"), (lambda word: None, "no value for any word"), (3, "a int is no lexicon")])
def test_lexicons_that_cannot_be_used(source, message):
    with pytest.raises(RewardenError, match=message):
        as_lexicon(source, ["love"])


def test_a_file_with_two_values_for_a_word_names_the_row(tmp_path):
    (tmp_path / "l.csv").write_text("word,value\nlove,1\nhate,-1\nLove,2\n")
    with pytest.raises(RewardenError, match=r"(?s)'Love' has no single value.*l\.csv, row 4.*1 and 2"):
        lexicon_file(tmp_path / "l.csv")


def test_lexicon_values_by_word():
    found = Lexicon("l", {"a": 1.0}, (0, 1)).of(np.array(["a", "b", ""], object))
    np.testing.assert_array_equal(found, [1, math.nan, math.nan])


def test_frequencies_are_those_of_wordfreq():
    wordfreq = pytest.importorskip("wordfreq")
    words = [*wordfreq.top_n_list("en", 3000)[::8], "short-sighted", "can't", "self-made", "zyzzqxw", "agender"]
    words = [normal_text(word) for word in words]
    found = frequencies(words)
    own = np.array([wordfreq.zipf_frequency(word, "en") for word in words])
    np.testing.assert_array_equal(np.isnan(found.zipf), own == 0)
    assert np.nanmax(np.abs(found.zipf - np.where(own == 0, np.nan, own))) <= 0.005 + 1e-9  # the package rounds to 0.01
    assert found.coverage == pytest.approx(np.mean([own[words.index(word)] > 0 for word in set(words)]))


def test_wordfreq_covers_afinn(shared_data):
    pytest.importorskip("wordfreq")
    words = list(afinn(shared_data / "lexicons" / "AFINN-111.txt").valence)
    assert frequencies(words).coverage >= 0.98


def test_a_table_of_frequencies_adds_parts_of_speech(tmp_path):
    file = tmp_path / "bnc.tsv"
    file.write_text("Word\tPoS\tFreq\nlove\tNoC\t150\nlove\tVerb\t50\nWar\tNoC\t297\nrare\tNoC\t0\n")
    expected = [math.log10(200) + 3, math.log10(297) + 3, math.nan, math.nan, math.nan]
    words = ["love", "war", "rare", "other", ""]
    for source in (file, str(file), {"love": 200.0, "WAR": 297.0, "rare": 0.0}):
        found = frequencies(words, source)
        np.testing.assert_allclose(found.zipf, expected)
        assert found.coverage == 0.5  # of four words; "" is none
    assert frequencies(words, found) is found
    with pytest.raises(RewardenError, match="5 frequencies for 1 words"):
        frequencies(["love"], found)


def test_frequencies_that_cannot_be_used():
    with pytest.raises(RewardenError, match=r"'love' occurs -3.2 times"):
        frequencies(["love"], {"love": -3.2})
    pytest.importorskip("wordfreq")
    with pytest.raises(RewardenError, match="language 'xx-none'"):
        frequencies(["love"], language="xx-none")
