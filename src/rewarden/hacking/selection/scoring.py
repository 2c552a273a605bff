"""What do a reward model and its judge say of several responses to each prompt?

In: models, prompts and responses, or preference pairs that hold several candidates a prompt. Out: a `ScoreTable`, with the same
samples under random read-outs of the model. Ignorant of what is computed from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden.conversation import Conversation, Message, Pair, as_messages
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.hacking.selection.candidates import ScoreTable
from rewarden.hacking.selection.random_readouts import RandomReadouts
from rewarden.hacking.selection.within_prompts import varying_prompts

if TYPE_CHECKING:
    from rewarden.dictionaries.dictionary import Dictionary
    from rewarden.reward_model import RewardModel

REFERENCES = 999
"""Random read-outs a table carries: p against them is known to 1 in 1,000."""

SAME = 0.1
"""Standard deviations by which two scorings of one model differ at most, whatever their number formats."""

Progress = Callable[[int], None]


def score_table(rm: RewardModel, gold: Any, prompts: Sequence[str | Sequence[Message]], responses: Sequence[Sequence[str]], *,
                references: int = REFERENCES, seed: int = 0, batch_size: Any = "auto", progress: Progress | None = None
                ) -> ScoreTable:
    """Rewards and golds of several responses to each prompt.

    Args:
        rm: the reward model that would be optimised against (an `Ensemble` does as well).
        gold: a second reward model; a function of (prompt, response) -> number; labels [P][m]; or None.
        prompts: strings or messages [P].
        responses: texts [P][m], their number may differ; one that cannot be scored (blank, too long) gets NaN.
        references: random read-outs of the states that `rm` reads; none for models that read log-probabilities of the response.
        seed: of these.
        batch_size: rows a forward.
        progress: called with the number of samples that `rm` has scored.

    Raises:
        RewardenError: prompts and responses that do not match, labels that are not one a response (the first prompt is named),
            or no response that can be scored.

    Example:
        >>> import rewarden as rw
        >>> rm = rw.load()
        >>> table = score_table(rm, lambda prompt, response: len(response), ["Hi"], [["Hello!", "No."]], references=9)
        >>> bool(table.proxy[0] == rm.reward([rw.Conversation.of("Hi", "Hello!")])[0, 0]), table.gold.tolist()
        (True, [6.0, 3.0])
    """
    if len(prompts) != len(responses) or not any(len(said) for said in responses):
        raise RewardenError(f"{len(prompts)} prompts and {len(responses)} lists of responses", where="score_table",
                            why="every prompt has a list of its responses, and there must be one at least",
                            fix="give responses=[[...], ...], one list a prompt")
    of = np.repeat(np.arange(len(prompts)), [len(said) for said in responses])
    texts = [text for said in responses for text in said]
    conversations = [_conversation(prompts[place], text) for place, text in zip(of, texts, strict=True)]
    proxy, drawn = _rewards(rm, conversations, references, seed, batch_size, progress)
    lists = np.split(np.arange(len(texts)), np.cumsum([len(said) for said in responses])[:-1])
    names = [prompt if isinstance(prompt, str) else json.dumps([dict(m) for m in as_messages(prompt)]) for prompt in prompts]
    distinct = {name: place for place, name in enumerate(dict.fromkeys(names))}
    facts = {**rm.provenance(), **_judge(gold), "references": 0 if drawn is None else references}
    return ScoreTable(tuple(distinct), np.array([distinct[names[place]] for place in of]), proxy,
                      _golds(gold, conversations, [prompts[place] for place in of], texts, lists, batch_size), tuple(texts),
                      references=drawn, noise=float(rm.noise_floor or 0.0), provenance=facts)


def _conversation(prompt: Any, response: str) -> Conversation | None:
    return Conversation.of(prompt, response) if response.strip() else None


def _encoded(rm: Any, conversations: Sequence[Conversation | None]) -> tuple[list[Encoded], list[int]]:
    """What the model can read, and its places; a response that is too long for it is left out."""
    rows, places, reason = [], [], "all are blank"
    for place, conversation in enumerate(conversations):
        try:
            if conversation is not None:
                rows.append(rm.encode(conversation))
                places.append(place)
        except RewardenError as error:
            reason = error.what
    if not rows:
        raise RewardenError("no response can be scored", where="score_table", why=reason,
                            fix="give responses that the model can read")
    return rows, places


def _rewards(rm: Any, conversations: Sequence[Conversation | None], references: int, seed: int, batch_size: Any,
             progress: Progress | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Rewards [N], and random read-outs [N, B] of the same states; both from one run."""
    rows, places = _encoded(rm, conversations)
    proxy = np.full(len(conversations), np.nan)
    readout = getattr(rm, "readout", None)  # an ensemble has none
    if readout is None or not references or readout.reads_ids:
        held = [one for one in (conversations[place] for place in places) if one is not None]
        proxy[places] = rm.reward(held, batch_size=batch_size, progress=progress)[:, rm.main]
        return proxy, None
    drawn = np.full((len(conversations), references), np.nan, dtype=np.float32)
    both = rm.reading(RandomReadouts(readout, rm.architecture.d_model, references, seed))
    values = both.reward_encoded(rows, batch_size=batch_size, progress=progress)
    proxy[places], drawn[places] = values[:, rm.main], values[:, -references:]
    return proxy, drawn


def _golds(gold: Any, conversations: Sequence[Conversation | None], prompts: Sequence[Any], texts: Sequence[str],
           lists: Sequence[np.ndarray], batch_size: Any) -> np.ndarray | None:
    """Golds [N] of a model, a function, labels (a list of them for the samples of each of `lists`), or none."""
    if gold is None:
        return None
    if hasattr(gold, "reward"):
        return _rewards(gold, conversations, 0, 0, batch_size, None)[0]
    if callable(gold):
        return np.array([gold(prompt, text) for prompt, text in zip(prompts, texts, strict=True)], dtype=np.float64)
    fix, labels = "give one number a response, in lists like those of the responses", np.empty(len(texts))
    if len(gold) != len(lists):
        raise RewardenError(f"{len(gold)} lists of labels for {len(lists)} prompts", where="gold=", fix=fix)
    for number, (said, rows) in enumerate(zip(gold, lists, strict=True)):
        count = len(said) if np.ndim(said) == 1 else 0
        if count != len(rows):
            asked = f", {str(prompts[rows[0]])[:60]!r}" if len(rows) else ""
            raise RewardenError(f"{count} labels for {len(rows)} responses", where=f"gold= of prompt {number}{asked}", fix=fix)
        labels[rows] = said
    return labels


def candidates(pairs: Sequence[Pair], least: int = 4) -> tuple[list[Any], list[list[str]], list[list[float]]]:
    """Prompts to which preference pairs hold several candidates, the candidates, and their labels.

    Candidates are the responses of all pairs of a prompt, and the versions that a pair carries under "styles". A label is the
    share of times that the response was the chosen one, 0 to 1.

    Args:
        pairs: any pairs; those whose rejected response answers a prompt of its own are passed over.
        least: candidates that a prompt must have.

    Returns:
        Prompts [P], responses [P][m], labels [P][m]; empty lists where no prompt has so many.

    Example:
        >>> pairs = [Pair("2+2?", "4", wrong) for wrong in ("3", "5", "22")]
        >>> candidates(pairs)[1:]
        ([['4', '3', '5', '22']], [[1.0, 0.0, 0.0, 0.0]])
    """
    found: dict[str, tuple[Any, dict[str, list[float]]]] = {}
    for pair in pairs:
        if pair.rejected_prompt is not None:
            continue
        prompt = pair.conversations[0].prompt
        held = found.setdefault(json.dumps([dict(m) for m in prompt], sort_keys=True), (pair.prompt, {}))[1]
        styles = pair.metadata.get("styles")
        versions = styles if isinstance(styles, Mapping) else {}
        for side, label, text in (("chosen", 1.0, pair.chosen), ("rejected", 0.0, pair.rejected)):
            others = versions.get(side, ())
            for one in dict.fromkeys([text, *(others if isinstance(others, list | tuple) else ())]):
                held.setdefault(str(one), []).append(label)
    kept = [(prompt, held) for prompt, held in found.values() if len(held) >= least]
    return ([prompt for prompt, _ in kept], [list(held) for _, held in kept],
            [[float(np.mean(labels)) for labels in held.values()] for _, held in kept])


def pairs_table(rm: RewardModel, pairs: Sequence[Pair], *, least: int = 4, **settings: Any) -> ScoreTable:
    """The score table of the candidates that preference pairs hold, with their labels as gold.

    Args:
        rm: the reward model.
        pairs: several pairs a prompt, or pairs with versions; see `candidates`.
        least: candidates that a prompt must have.
        **settings: of `score_table`.

    Raises:
        RewardenError: no prompt has so many candidates.
    """
    prompts, responses, labels = candidates(pairs, least)
    if not prompts:
        raise RewardenError(f"no prompt has {least} candidates", where="pairs_table", why=f"in {len(pairs)} pairs",
                            fix="give a best-of-n data set such as RewardBench 2, or sample responses from a policy")
    return score_table(rm, labels, prompts, responses, **settings)


def table_again(rm: RewardModel, table: ScoreTable, *, gold: Any = None, **settings: Any) -> ScoreTable:
    """The same samples with the rewards of a model, and their golds as they were or of another model.

    Args:
        rm: the reward model.
        table: with responses.
        gold: as for `score_table`; None keeps the golds of the table.
        **settings: of `score_table`.

    Raises:
        RewardenError: a table without responses.
    """
    texts, of = _responses(table), table.members()
    responses = [[texts[row] for row in rows] for rows in of]
    if gold is None and table.gold is not None:
        gold = [table.gold[rows].tolist() for rows in of]
    return score_table(rm, gold, [_messages(prompt) for prompt in table.prompts], responses, **settings)


def fill(rm: RewardModel, table: ScoreTable, *, gold: Any = None, **settings: Any) -> ScoreTable:
    """The same samples with the rewards that the table has, those of the model where it has none, and random read-outs.

    Args:
        rm: the model whose rewards the table holds, in part or all.
        table: with responses.
        gold: as for `table_again`.
        **settings: of `score_table`.

    Raises:
        RewardenError: a table without responses or with repeated scorings, or rewards that are not this model's: they differ
            from its own by more than a tenth of their standard deviation (median over samples).
    """
    order = np.concatenate(table.members())
    if table.copies is not None and not np.isfinite(table.proxy).all():
        raise RewardenError("repeated scorings are not filled up", where="fill", why="one scoring of a model is not several",
                            fix="leave the columns proxy_1, proxy_2, ... out, or score the missing samples as often")
    made, given = table_again(rm, table, gold=gold, **settings), table.proxy[order]
    known, scored = np.isfinite(given), np.isfinite(made.proxy)
    gap = np.abs(given - made.proxy)[known & scored]
    if len(gap) and np.median(gap) > SAME * np.std(made.proxy[scored]):
        raise RewardenError(f"the rewards in the table are not those of {rm.name}", where="fill",
                            why=f"they differ from its own by {np.median(gap):.3g} (median of {len(gap)} samples)",
                            fix="name the model that gave them, or leave the column out for rewards of this one")
    copies = None if table.copies is None else table.copies[order]
    return replace(made, proxy=np.where(known, given, made.proxy), copies=copies).noted(filled=int((~known & scored).sum()))


def judged(table: ScoreTable, gold: Any, *, batch_size: Any = "auto") -> ScoreTable:
    """The same samples and rewards with golds of another model.

    Args:
        table: with responses.
        gold: as for `score_table`; labels in a list for each of the table's prompts, in the order of its samples.
        batch_size: rows a forward.

    Raises:
        RewardenError: a table without responses, or labels that are not one a response.
    """
    texts, prompts = _responses(table), [_messages(table.prompts[of]) for of in table.of]
    conversations = [_conversation(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    found = _golds(gold, conversations, prompts, texts, table.members(), batch_size)
    return replace(table, gold=found).noted(**_judge(gold))


def _judge(gold: Any) -> dict[str, Any]:
    """What gives the golds, and the noise of its numbers: 0 for labels and functions."""
    return {"gold_model": str(getattr(gold, "name", "") or type(gold).__name__),
            "gold_noise": float(getattr(gold, "noise_floor", None) or 0.0)}


def _responses(table: ScoreTable) -> tuple[str, ...]:
    if table.responses is None:
        raise RewardenError("the table has no responses to score", where="candidates", why="a model reads texts",
                            fix="give a column 'response'")
    return table.responses


def dictionary_features(rm: RewardModel, table: ScoreTable, dictionary: Dictionary, *, top: int | None = None
                        ) -> dict[str, np.ndarray]:
    """Values of a dictionary's features where the reward of each sample is read, as features of `best_of_n` and the like.

    Args:
        rm: the model.
        table: with responses.
        dictionary: its features.
        top: how many at most: those that differ among the samples of most prompts, whatever the reward says of them.

    Returns:
        "feature 12" -> float64 [N], of the features that fire in at least one sample; NaN where a sample cannot be read.

    Raises:
        RewardenError: a table without responses, or a dictionary of another model.
    """
    from rewarden.dictionaries.contrast.fired import firing

    rows, places = _encoded(rm, [_conversation(_messages(table.prompts[of]), text)
                                 for of, text in zip(table.of, _responses(table), strict=True)])
    fired = firing(rm, rows, dictionary).tocsc()
    active = np.flatnonzero(np.diff(fired.indptr))
    values = np.full((len(table.proxy), len(active)), np.nan)
    values[places] = fired[:, active].toarray()
    if top is not None and len(active) > top:
        kept = np.sort(np.argsort(-varying_prompts(values, table.rows(np.arange(len(values)))), kind="stable")[:top])
        active, values = active[kept], values[:, kept]
    return {f"feature {feature}": column for feature, column in zip(active, values.T, strict=True)}


def _messages(prompt: str) -> Any:
    """A prompt as it was given: messages are kept as JSON text."""
    if prompt.startswith('[{"'):
        try:
            return as_messages(json.loads(prompt))
        except (ValueError, RewardenError):
            return prompt  # a user's text that only looks like messages
    return prompt
