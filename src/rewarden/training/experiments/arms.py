"""Which rewards is the policy trained on, and what became of it?

In: an arm's name, a seed. Out: the policy trained with TRL's GRPO, measured as its base was (`setting`). Ignorant of tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rewarden.errors import RewardenError
from rewarden.training.arithmetic import load_policy, sum_columns, train_pairs
from rewarden.training.composition import CompositeReward
from rewarden.training.experiments.setting import Setting, make_setting, measure, outcome_reward
from rewarden.training.feature_reward import FeatureReward
from rewarden.training.trl import bind, reward_funcs

Rewards = Literal["outcome", "feature", "sum", "bounded"]


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        rewards: "outcome"; "feature"; "sum" of both, the feature a tenth; "bounded": no wrong answer outranks a right one.
        kl: weight of the divergence from the base (TRL's beta).
        source: whose activations are rewarded.
        about: in words.
    """

    rewards: Rewards
    kl: float = 0.0
    source: Literal["policy", "reference"] = "policy"
    about: str = ""


ARMS: dict[str, Arm] = {
    "outcome": Arm("outcome", about="right answers alone"),
    "feature": Arm("feature", about="features of the policy in training alone"),
    "feature, frozen": Arm("feature", source="reference", about="features that the base model sees in its text"),
    "feature, KL": Arm("feature", kl=0.2, about="features, near to the base"),
    "hybrid, sum": Arm("sum", about="right answers, and a tenth of the features"),
    "hybrid, bounded": Arm("bounded", about="features decide among equally right answers"),
}

STEPS, PROMPTS, EACH, RATE = 100, 8, 8, 3e-4


def rewards_of(arm: Arm, setting: Setting, tokenizer: Any) -> tuple[list[Any], list[float]]:
    """Rewards and their weights, in TRL's form."""
    feature = FeatureReward(setting.readout, source=arm.source, centre=setting.centre, spread=setting.spread)
    outcome = outcome_reward(tokenizer)
    composite = CompositeReward(outcome, {feature: 1.0}, margin=0.1)
    chosen, weights = {"outcome": ([outcome], [1.0]), "feature": ([feature], [1.0]), "sum": ([outcome, feature], [1.0, 0.1]),
                       "bounded": ([composite], [1.0])}[arm.rewards]
    return list(reward_funcs(chosen)), weights


def train(name: str, seed: int, *, steps: int = STEPS, folder: str = "out", setting: Setting | None = None,
          callbacks: Sequence[Any] = (), log: Callable[[dict[str, Any]], None] | None = None) -> dict[str, float]:
    """Train one arm, and measure what became of the policy.

    Args:
        name: of `ARMS`.
        seed: of the prompts, the draws and the order.
        steps: of the optimiser, each on 8 prompts with 8 completions.
        folder: where the trainer may write.
        setting: shared by all arms; that of seed 0 by default.
        callbacks: of transformers' Trainer, such as an audit's.
        log: called with each row of the trainer's log.

    Returns:
        What `measure` says, with `steps` done.

    Raises:
        RewardenError: no such arm, or TRL is missing.
    """
    if name not in ARMS:
        raise RewardenError(f"no arm is called {name!r}", where="train", why=f"there are {', '.join(ARMS)}",
                            fix="use one of them")
    arm, setting = ARMS[name], setting or make_setting()
    trainer = make_trainer(arm, setting, seed, steps, folder, callbacks)
    bind(trainer, reference="frozen" if arm.source == "reference" else None)
    trainer.train()
    if log:
        for row in trainer.state.log_history:
            log(row)
    return {**measure(trainer.accelerator.unwrap_model(trainer.model), setting), "steps": float(trainer.state.global_step)}


def make_trainer(arm: Arm, setting: Setting, seed: int, steps: int, folder: str, callbacks: Sequence[Any] = ()) -> Any:
    """A `GRPOTrainer` of an arm."""
    try:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer
    except ImportError as error:
        raise RewardenError("training needs TRL and datasets", where="experiments", why=str(error),
                            fix="pip install 'rewarden[train]'") from error
    model, tokenizer = load_policy()
    funcs, weights = rewards_of(arm, setting, tokenizer)
    pairs = np.random.default_rng((seed, 3)).permutation(np.asarray(list(train_pairs())))[:4000]
    data = Dataset.from_dict(sum_columns([tuple(map(int, pair)) for pair in pairs]))
    config = GRPOConfig(
        output_dir=folder, per_device_train_batch_size=PROMPTS * EACH, num_generations=EACH, max_completion_length=40,
        max_steps=steps, learning_rate=RATE, lr_scheduler_type="constant", logging_steps=max(1, steps // 10), report_to=[],
        use_cpu=not _cuda(), bf16=False, save_strategy="no", disable_tqdm=True, beta=arm.kl, temperature=1.0,
        reward_weights=weights, seed=seed, gradient_checkpointing=False)
    return GRPOTrainer(model=model, reward_funcs=funcs, args=config, train_dataset=data, processing_class=tokenizer,
                       callbacks=list(callbacks))


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
