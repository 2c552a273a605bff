"""What would this model's states say if they were read in directions that nobody trained?

In: a read-out. Out: the same read-out with further scalars, linear maps of the same normed states in random directions. Such a
direction can follow the length of a text because the states do; a reward that follows it no more was not made to. The reward of
a model with random weights is itself such a direction, so that its rank among them is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rewarden.conversation import Conversation, Message
from rewarden.encoding import Encoded
from rewarden.readout import Reading, Readout


@dataclass(eq=False)
class RandomReadouts(Readout):
    """A read-out followed by random linear ones at the same positions.

    Args:
        base: whose scalars come first.
        width: d.
        count: random directions B, of the mean over the positions read.
        seed: of the draw.

    Example:
        >>> import rewarden as rw
        >>> rm = rw.load()
        >>> both = rm.reading(RandomReadouts(rm.readout, rm.architecture.d_model, 3))
        >>> both.reward([rw.Conversation.of("Hi", "Hello!")]).shape
        (1, 4)
    """

    base: Readout
    width: int
    count: int
    seed: int = 0
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("norm", "layer", "generation_prompt", "reads_ids"):
            setattr(self, name, getattr(self.base, name))
        self.names = (*self.base.names, *(f"random_{number}" for number in range(self.count)))
        self.directions = torch.randn(self.width, self.count, generator=torch.Generator().manual_seed(self.seed))

    def messages(self, conversation: Conversation) -> Sequence[Message]:
        """Those of the base."""
        return self.base.messages(conversation)

    def read(self, encoded: Encoded) -> Reading:
        """Where the base reads."""
        return self.base.read(encoded)

    def apply_normed(self, normed: Tensor, reading: Reading) -> Tensor:
        """The base's scalars, then the random ones."""
        return torch.cat([self.base.apply_normed(normed, reading), self._random(normed)], -1)

    def apply(self, residual: Tensor, reading: Reading) -> Tensor:
        """As `apply_normed`; a base that reads the residual in its own way is asked in that way."""
        return torch.cat([self.base.apply(residual, reading), self._random(self.norm(residual.float()))], -1)

    def _random(self, normed: Tensor) -> Tensor:
        return normed.float().mean(-2) @ self.directions.to(normed.device)
