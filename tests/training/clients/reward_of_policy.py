"""A user's file: makes the reward of a saved policy and of probes, in a trainer's own process."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from rewarden.training.aggregation import Aggregation
from rewarden.training.feature_reward import FeatureReward
from rewarden.training.features import Linear
from rewarden.training.provider import ActivationProvider
from rewarden.training.readout import FeatureReadout


def make(tokenizer, policy, layer, weight, bias, names, weights, centre=0.0, spread=1.0):
    """A feature reward, all of whose numbers stand in the configuration."""
    readout = FeatureReadout(Linear(torch.tensor(weight), torch.tensor(bias), tuple(names)), layer, torch.tensor(weights),
                             aggregation=Aggregation("mean"))
    model = AutoModelForCausalLM.from_pretrained(policy)
    return FeatureReward(readout, ActivationProvider(model, tokenizer), centre=centre, spread=spread)
