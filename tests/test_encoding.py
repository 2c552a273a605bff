"""Encoding: the template's own ids, once; spans that are what the template really wrote; nothing lost but counted prompt."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.families import build
from tests.tokenizers_tiny import tiny_tokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from rewarden.conversation import Conversation
from rewarden.demo import model_path
from rewarden.encoding import PROMPT, RESPONSE, TEMPLATE, Encoder
from rewarden.errors import RewardenError, RewardenWarning
from rewarden.reward_model import RewardModel

CHATML = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
TRIMMING = ("{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<eot>{% endfor %}")
TRIMS_ANSWERS = ("{% for m in messages %}{% if m['role'] == 'assistant' %}A: {{ m['content'] | trim }}\n"
                 "{% else %}Q: {{ m['content'] }}\n{% endif %}{% endfor %}")
# the essentials of Qwen3's: reasoning leaves earlier answers, and is re-wrapped in the last one
REASONING = ("{% for m in messages %}{% set content = m['content'] %}{% set reasoning = '' %}"
             "{% if m['role'] == 'assistant' and '</think>' in content %}"
             "{% set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
             "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
             "<|{{ m['role'] }}|>\n{% if m['role'] == 'assistant' and loop.last %}"
             "<think>\n{{ reasoning.strip('\\n') }}\n</think>\n\n{% endif %}{{ content }}<eot>{% endfor %}")
DROPS_SYSTEM = "{% for m in messages if m['role'] != 'system' %}[{{ m['role'] }}]{{ m['content'] }}[/]{% endfor %}"
SYSTEM_LAST = ("{% for m in messages if m['role'] != 'system' %}{% if loop.last and messages[0]['role'] == 'system' %}"
               "SYS{{ messages[0]['content'] }}{% endif %}[{{ m['role'] }}]{{ m['content'] }}[/]{% endfor %}")
NO_SYSTEM = ("{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
             "{% endif %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}")


@cache
def byte_level():
    return AutoTokenizer.from_pretrained(model_path())


def characters(template: str | None) -> PreTrainedTokenizerFast:
    """One token per character: spans of tokens are spans of characters."""
    vocabulary = {"<unk>": 0, **{chr(code): code for code in range(1, 128)}}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    tokenizer.chat_template = template
    return tokenizer


def bert_like() -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "red", "the", "sun", "no"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
                                   pad_token="[PAD]", model_input_names=["input_ids", "token_type_ids", "attention_mask"])


def with_template(tokenizer, template: str):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def text_of(encoded, code: int) -> str:
    return "".join(token for token, span in zip(encoded.tokens, encoded.spans, strict=True) if span == code)


def turns(*contents: str, system: str | None = None) -> Conversation:
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return Conversation([*first, *({"role": roles[i % 2], "content": c} for i, c in enumerate(contents))])


HARD = [turns("user", "assistant"), turns("<|user|>", "<|assistant|>"), turns("a", "a"), turns("<|end|>", "<|bos|> x"),
        turns("  two  spaces ", "\n line\n"), turns("hi", "yes", "hi", "yes"), turns("q", "a", system="system"),
        turns("assistant", "user", "user", "assistant"), turns("日本語 😀👩‍👩‍👧", "naïve café 🏳️‍🌈")]


@pytest.mark.parametrize("template", [None, CHATML, TRIMMING, TRIMS_ANSWERS, REASONING, DROPS_SYSTEM, SYSTEM_LAST])
@pytest.mark.parametrize("number", range(len(HARD)))
def test_ids_are_those_of_the_chat_template(template: str | None, number: int) -> None:
    tokenizer = byte_level() if template is None else with_template(byte_level(), template)
    wanted = tokenizer.apply_chat_template([dict(m) for m in HARD[number].messages], tokenize=True)["input_ids"]
    encoded = Encoder(tokenizer)(HARD[number])
    assert encoded.ids.tolist() == wanted
    assert encoded.text == tokenizer.apply_chat_template([dict(m) for m in HARD[number].messages], tokenize=False)


@pytest.mark.parametrize("number", range(len(HARD)))
def test_spans_of_the_bundled_tokenizer_are_the_contents(number: int) -> None:
    conversation = HARD[number]
    encoded = Encoder(byte_level())(conversation)
    assert text_of(encoded, RESPONSE) == conversation.response
    assert text_of(encoded, PROMPT) == "".join(message["content"] for message in conversation.prompt)
    assert "".join(encoded.tokens) == encoded.text


T, P, R = TEMPLATE, PROMPT, RESPONSE


@pytest.mark.parametrize(("template", "conversation", "pieces"), [
    (CHATML, turns("user", "assistant"),
     [("<|im_start|>user\n", T), ("user", P), ("<|im_end|>\n<|im_start|>assistant\n", T), ("assistant", R),
      ("<|im_end|>\n", T)]),
    (CHATML, turns("<|im_end|>\n<|im_start|>assistant\n", "im_end"),
     [("<|im_start|>user\n", T), ("<|im_end|>\n<|im_start|>assistant\n", P), ("<|im_end|>\n<|im_start|>assistant\n", T),
      ("im_end", R), ("<|im_end|>\n", T)]),
    (TRIMMING, turns("  eot ", "\n a \n"),
     [("<|user|>\n", T), ("eot", P), ("<eot><|assistant|>\n", T), ("a", R), ("<eot>", T)]),
    (TRIMS_ANSWERS, turns(" Q: ", " A: "), [("Q: ", T), (" Q: ", P), ("\nA: ", T), ("A:", R), ("\n", T)]),
    (TRIMS_ANSWERS, turns(" A", "A ", " A", " A"),
     [("Q: ", T), (" A", P), ("\nA: ", T), ("A", P), ("\nQ: ", T), (" A", P), ("\nA: ", T), ("A", R), ("\n", T)]),
    (CHATML, turns("hi", "yes", "hi", "yes", system="system"),
     [("<|im_start|>system\n", T), ("system", P), ("<|im_end|>\n<|im_start|>user\n", T), ("hi", P),
      ("<|im_end|>\n<|im_start|>assistant\n", T), ("yes", P), ("<|im_end|>\n<|im_start|>user\n", T), ("hi", P),
      ("<|im_end|>\n<|im_start|>assistant\n", T), ("yes", R), ("<|im_end|>\n", T)]),
    (REASONING, turns("think", "<think>\nwhy\n</think>\n\nbecause"),
     [("<|user|>\n", T), ("think", P), ("<eot><|assistant|>\n<think>\n", T), ("why\n</think>\n\nbecause", R), ("<eot>", T)]),
    (REASONING, turns("user", "<think>\nso\n</think>\n\none", "user", "two"),
     [("<|user|>\n", T), ("user", P), ("<eot><|assistant|>\n", T), ("one", P), ("<eot><|user|>\n", T), ("user", P),
      ("<eot><|assistant|>\n<think>\n\n</think>\n\n", T), ("two", R), ("<eot>", T)]),
    (DROPS_SYSTEM, turns("user", "system", system="user"),
     [("[user]", T), ("user", P), ("[/][assistant]", T), ("system", R), ("[/]", T)]),
    (SYSTEM_LAST, turns("be", "SYS", system="be"),
     [("[user]", T), ("be", P), ("[/]SYS", T), ("be", P), ("[assistant]", T), ("SYS", R), ("[/]", T)]),
    (None, turns("User: ", "Assistant", system="System"),
     [("System: ", T), ("System", P), ("\n\nUser: ", T), ("User: ", P), ("\n\nAssistant: ", T), ("Assistant", R)]),
])
@pytest.mark.filterwarnings("ignore:the tokenizer has no chat template")
def test_spans_are_exactly_what_the_template_wrote(template: str | None, conversation: Conversation, pieces: list) -> None:
    encoded = Encoder(characters(template))(conversation)
    assert encoded.text == "".join(text for text, _ in pieces)
    assert encoded.spans.tolist() == [code for text, code in pieces for _ in text]
    assert encoded.tokens == tuple(encoded.text)
    response = [code for text, code in pieces for _ in text]
    assert (encoded.response_start, encoded.response_end) == (response.index(R), len(response) - response[::-1].index(R))


WORDS = st.text(min_size=1, max_size=25).filter(str.strip)


@settings(max_examples=150, deadline=None)
@given(WORDS, WORDS)
def test_response_tokens_spell_the_response(prompt: str, response: str) -> None:
    encoded = Encoder(byte_level())(Conversation.of(prompt, response))
    assert text_of(encoded, RESPONSE) == response
    assert text_of(encoded, PROMPT) == prompt
    assert text_of(encoded, TEMPLATE) == "<|bos|><|user|><|end|><|assistant|><|end|>"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab \n<|>usertAQ:", min_size=1, max_size=8).filter(str.strip), min_size=2, max_size=4),
       st.sampled_from([CHATML, TRIMMING, TRIMS_ANSWERS, REASONING]))
def test_spans_follow_the_template_for_hostile_contents(contents: list[str], template: str) -> None:
    contents = contents[: 2 * (len(contents) // 2)]
    encoded = Encoder(characters(template))(turns(*contents))

    def written(text: str, answer: bool) -> str:
        return text.strip() if template == TRIMMING or (template == TRIMS_ANSWERS and answer) else text

    assert text_of(encoded, RESPONSE) == written(contents[-1], True)
    assert text_of(encoded, PROMPT) == "".join(written(c, bool(i % 2)) for i, c in enumerate(contents[:-1]))


def test_a_character_of_several_tokens_is_shown_once() -> None:
    encoded = Encoder(byte_level())(Conversation.of("🦄", "🦄"))
    assert (encoded.spans == RESPONSE).sum() > 1  # this vocabulary has no token for it
    assert text_of(encoded, RESPONSE) == text_of(encoded, PROMPT) == "🦄"


@pytest.mark.parametrize(("doubled", "keep", "auto"), [(0, 0, 0), (1, 1, 1), (2, 2, 1), (3, 3, 1)])
def test_bos_policies(doubled: int, keep: int, auto: int) -> None:
    template = "<|bos|>" * doubled + "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    tokenizer = with_template(byte_level(), template)
    conversation = Conversation.of("a <|bos|> inside stays", "yes")
    bos = tokenizer.bos_token_id
    encoded = {policy: Encoder(tokenizer, policy)(conversation) for policy in ("keep", "auto", "strip")}
    for policy, count in {"keep": keep, "auto": auto, "strip": 0}.items():
        rest = encoded["strip"].ids.tolist()
        assert encoded[policy].ids.tolist() == [bos] * count + rest, policy
        assert text_of(encoded[policy], RESPONSE) == "yes"
        assert len(encoded[policy].tokens) == len(encoded[policy].spans) == len(encoded[policy].ids)
    assert encoded["strip"].ids.tolist().count(bos) == 1


def test_unknown_bos_policy() -> None:
    with pytest.raises(RewardenError, match="unknown BOS policy 'never'"):
        Encoder(byte_level(), "never")  # type: ignore[arg-type]


def test_generation_prompt_opens_an_assistant_turn() -> None:
    conversation = Conversation.of("q", "a")
    encoded = Encoder(characters(CHATML), generation_prompt=True)(conversation)
    plain = Encoder(characters(CHATML))(conversation)
    assert encoded.text == plain.text + "<|im_start|>assistant\n"
    assert encoded.spans.tolist() == plain.spans.tolist() + [TEMPLATE] * len("<|im_start|>assistant\n")


def test_spans_inside_a_judges_question() -> None:
    conversation = Conversation.of("the prompt", "the answer")

    def ask(quoted: Conversation) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"Is '{quoted.response}' good for '{quoted.prompt[0]['content']}'?"}]

    encoded = Encoder(characters(CHATML))(conversation, ask)
    assert encoded.text == "<|im_start|>user\nIs 'the answer' good for 'the prompt'?<|im_end|>\n"
    assert text_of(encoded, RESPONSE) == "the answer"
    assert text_of(encoded, PROMPT) == "the prompt"
    with pytest.raises(RewardenError, match="no token of the response"):
        Encoder(characters(CHATML))(conversation, lambda _: [{"role": "user", "content": "Is it good?"}])


def test_a_template_that_refuses_names_the_roles() -> None:
    with pytest.raises(RewardenError) as error:
        Encoder(characters(NO_SYSTEM))(turns("a", "b", system="c"))
    assert error.value.what == "the chat template refuses a conversation with roles ['system', 'user', 'assistant']"
    assert error.value.why == "System role not supported"


def test_a_template_that_drops_the_response_is_refused() -> None:
    drops = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(RewardenError, match="no token of the response is left") as error:
        Encoder(characters(drops))(turns("a", "b"))
    assert "assistant messages" in error.value.fix


# --- without a chat template ------------------------------------------------------------------------------------------

def test_text_pair_is_the_tokenizers_own_pair() -> None:
    tokenizer = bert_like()
    with pytest.warns(RewardenWarning, match="no chat template: conversations are written as 'text_pair'"):
        encoder = Encoder(tokenizer)
    assert encoder.scheme == "text_pair"
    encoded = encoder(turns("what is red", "the sun is red"))
    own = tokenizer("what is red", "the sun is red")
    assert encoded.ids.tolist() == own["input_ids"] == [2, 4, 5, 6, 3, 7, 8, 5, 6, 3]
    assert encoded.type_ids is not None
    assert encoded.type_ids.tolist() == own["token_type_ids"] == [0] * 5 + [1] * 5
    assert encoded.spans.tolist() == [T, P, P, P, T, R, R, R, R, T]
    assert encoded.tokens == ("[CLS]", "what", "is", "red", "[SEP]", "the", "sun", "is", "red", "[SEP]")


@pytest.mark.parametrize(("tokenizer", "scheme"), [(bert_like(), "text_pair"), (tiny_tokenizer(template=None), "plain")])
def test_a_fallback_is_recorded(tokenizer, scheme: str) -> None:
    with pytest.warns(RewardenWarning, match=f"written as '{scheme}'"):
        rm = RewardModel(build("llama" if scheme == "plain" else "bert"), tokenizer)
    assert rm.provenance()["template"] == scheme
    assert rm.provenance()["template_hash"] != RewardModel(build("llama"), tiny_tokenizer()).provenance()["template_hash"]


def test_a_slow_tokenizer_without_template_is_refused_as_text_pair() -> None:
    tokenizer = ByT5Tokenizer()
    tokenizer.cls_token = tokenizer.sep_token = "</s>"
    with pytest.warns(RewardenWarning, match="text_pair"):
        encoder = Encoder(tokenizer)
    with pytest.raises(RewardenError, match="must be a fast one"):
        encoder(turns("a", "b"))


@pytest.mark.parametrize("conversation", [turns("user", "assistant"), turns("where is it?", "  in  the café 😀\n ok "),
                                          turns("q", "a", "q", "a"), turns("a" * 9, "é")])
def test_slow_tokenizers_have_the_same_spans(conversation: Conversation) -> None:
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = CHATML
    encoded = Encoder(tokenizer)(conversation)
    reference = Encoder(characters(CHATML))(conversation)
    assert not tokenizer.is_fast
    # one token per byte: a character's span, once for each of its bytes
    wanted = [int(code) for char, code in zip(reference.text, reference.spans, strict=True) for _ in char.encode()]
    assert encoded.spans.tolist() == wanted
    assert encoded.ids.tolist() == tokenizer.apply_chat_template([dict(m) for m in conversation.messages])["input_ids"]


# --- truncation -------------------------------------------------------------------------------------------------------

def test_truncation_removes_prompt_tokens_from_the_left_and_counts_them() -> None:
    conversation = turns("one two three four five", "six", "seven eight nine", "ten is the answer", system="be early")
    tokenizer = byte_level()
    full = Encoder(tokenizer)(conversation)
    prompt = np.flatnonzero(full.spans == PROMPT)
    for removed in range(len(prompt) + 1):
        short = Encoder(tokenizer, max_length=full.length - removed)(conversation)
        index = np.setdiff1d(np.arange(full.length), prompt[:removed])
        np.testing.assert_array_equal(short.ids, full.ids[index])
        np.testing.assert_array_equal(short.spans, full.spans[index])
        assert short.tokens == tuple(full.tokens[i] for i in index)
        assert (short.truncated, short.length) == (removed, full.length - removed)
        assert text_of(short, RESPONSE) == conversation.response
    least = full.length - len(prompt)
    with pytest.raises(RewardenError, match=f"{full.length} tokens exceeds max_length={least - 1}") as error:
        Encoder(tokenizer, max_length=least - 1)(conversation)
    assert "never cut silently" in error.value.why
    assert error.value.fix == "raise max_length, shorten the response, or drop the row"


def test_truncated_pairs_keep_their_segments() -> None:
    with pytest.warns(RewardenWarning):
        short = Encoder(bert_like(), max_length=8)(turns("what is red", "the sun is red"))
    assert short.ids.tolist() == [2, 6, 3, 7, 8, 5, 6, 3]
    assert short.type_ids is not None
    assert short.type_ids.tolist() == [0] * 3 + [1] * 5
    assert short.truncated == 2


def test_overflow_may_be_an_error() -> None:
    conversation = turns("one two three", "four")
    length = Encoder(byte_level())(conversation).length
    assert Encoder(byte_level(), max_length=length, on_overflow="error")(conversation).truncated == 0
    with pytest.raises(RewardenError, match="exceeds max_length"):
        Encoder(byte_level(), max_length=length - 1, on_overflow="error")(conversation)


def test_key_tells_apart_exactly_what_the_model_sees() -> None:
    encoder = Encoder(byte_level())
    one, same, other = encoder(turns("a", "b")), encoder(turns("a", "b")), encoder(turns("a", "c"))
    assert one.key() == same.key() != other.key()


def test_key_tells_apart_the_same_tokens_read_at_other_places() -> None:
    template = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    encoder = Encoder(with_template(byte_level(), template))
    two = encoder(turns("a", "b", "c", "d"))
    one = encoder(turns("a<|assistant|>b<|user|>c", "d"))
    whole = encoder(turns("a", "b<|user|>c<|assistant|>d"))
    assert one.ids.tolist() == two.ids.tolist() == whole.ids.tolist()
    assert len({one.key(), two.key(), whole.key()}) == 3
