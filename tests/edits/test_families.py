"""Every family: which backend it gets, and the engine equals its own hooks on whole forwards at every kind of site."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.edits.drawing import base_of, conversations, counterfactuals, model_of
from tests.families import DECODERS, ENCODERS, build
from tests.tokenizers_tiny import tiny_tokenizer

from rewarden.edits import backend_of
from rewarden.errors import RewardenWarning
from rewarden.reward_model import RewardModel

SLOWER = {
    "gpt_neo": "do not call attention through transformers' interface",
    "gptj": "do not call attention through transformers' interface",
    "falcon": "do not call attention through transformers' interface",
    "mpt": "do not call attention through transformers' interface",
    "qwen3_next": "do not call attention through transformers' interface",  # three layers of four are recurrent
}
"""Decoders that are run from the edited layer on, whole sequences, and why."""

WHOLE = {"bloom": "do not call attention through transformers' interface"}
"""Decoders that are run by hooks on whole forwards."""

ON_THE_CONE = tuple(family for family in DECODERS if family not in SLOWER and family not in WHOLE)


def test_thirty_four_of_forty_decoders_are_on_the_light_cone() -> None:
    assert len(ON_THE_CONE) == 34
    assert len(DECODERS) == 40


@pytest.mark.parametrize("family", ON_THE_CONE)
def test_on_the_light_cone(family: str) -> None:
    backend = backend_of(model_of(family))
    assert (backend.name, backend.reason) == ("light cone", "")
    assert 0 < backend.error < 1e-5  # it was tried against hooks, on edits that change something


@pytest.mark.parametrize("family", [*SLOWER, *WHOLE])
def test_decoders_off_the_cone_say_why(family: str) -> None:
    rm = RewardModel(build(family), tiny_tokenizer(), name=family, check=False)
    with pytest.warns(RewardenWarning, match=f"edits of {family} run by") as caught:
        backend = backend_of(rm)
    assert backend.name == ("hooks on whole forwards" if family in WHOLE else "resume from the edited layer")
    assert {**SLOWER, **WHOLE}[family] in backend.reason
    assert backend.reason in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend_of(rm) is backend  # found once, announced once


@pytest.mark.parametrize("family", ENCODERS)
def test_encoders_resume_from_the_edited_layer(family: str) -> None:
    backend = backend_of(model_of(family))
    assert (backend.name, backend.reason) == ("resume from the edited layer", "attention is not causal")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", DECODERS + ENCODERS)
@settings(max_examples=6, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_engine_equals_hooks_on_whole_forwards(family: str, data) -> None:
    rm = model_of(family)
    base = base_of(rm, data.draw(conversations()))
    rows = data.draw(counterfactuals(base))
    hooks = rm.plan(base, rows, backend="hooks").run().values.numpy()
    size = max(1.0, float(np.abs(hooks).max()))
    np.testing.assert_allclose(rm.edit(base, rows), hooks, rtol=0, atol=1e-5 * size, err_msg=str(rows))
