"""The one causal question: what are the scalars if these activations are other ones?

In: a base run and edits. Out: a `Plan` that says what will be computed and at what cost, and `Edited`, one row of scalars per
counterfactual. Ignorant of why anybody asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rewarden.batching import CPU_TOKENS, GPU_TOKENS
from rewarden.conversation import Conversation, Message
from rewarden.edits.backend import CONE, HOOKS, RESUME, Backend, backend_of
from rewarden.edits.base import BaseRun, record, runs_of
from rewarden.edits.cone import Cone
from rewarden.edits.downstream import Traces
from rewarden.edits.edit import Edits
from rewarden.edits.fallback import Hooks
from rewarden.edits.groups import Group, Rows, grouped, live_rows
from rewarden.edits.units import Unit, Wanted, check_edits, make_units, needed_sites
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.readout import Reading

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

CPU_BUDGET, CPU_LEAST, CPU_NUMBERS, GPU_BUDGET = 1024, 256, 2**18, 16384
"""Tokens of one call on a CPU: the most, the fewest, and between them the size of the residual stream (tokens · width) above
which caches thrash; tokens that keep an accelerator busy."""

CALL_TOKENS, CALL_WEIGHTS = 20, 2**24
"""What a call of a layer costs a CPU before its first token: reading the weights, in tokens, and Python, in weights × tokens
(measured at widths 128, 256, 512, 1,024: 66, 37, 21, 21 tokens)."""

CONTROLLED = 16
"""Rows of a group from which on an unedited row runs along; the earliest group always has one."""

TRACEABLE = ("resid_pre", "resid_post", "attn_out", "mlp_out", "z")


@dataclass(frozen=True, eq=False)
class Edited:
    """What edits did.

    Attributes:
        values: float32 [n, k], the scalars of each counterfactual; rows that cannot change anything are the base run's,
            bit for bit. Non-finite values (an edit may overflow the model) are returned as they are; no other row sees them.
        base: float32 [k], the base run's scalars.
        noise_floor: twice the largest deviation of unedited rows from the base run, run as the edits were (base and edited row
            each are rounded); 0 when nothing ran.
        traces: site → [n, layer, position, width], where traces were asked for.
    """

    values: Tensor
    base: Tensor
    noise_floor: float
    traces: dict[str, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Plan:
    """What a batch of edits needs, before anything is computed.

    Attributes:
        base: the recorded run.
        units: canonical edits.
        n: rows in all.
        backend: how they run.
        trace: sites whose activations after the edit are kept.
        trace_positions: positions of `trace`.
        readings: where each row is read, where that depends on the edit; None reads all as the base run is.
    """

    base: BaseRun
    units: list[Unit]
    n: int
    backend: Backend
    wanted: Wanted
    trace: tuple[str, ...] = ()
    trace_positions: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    readings: Sequence[Reading] | None = None

    @cached_property
    def rows(self) -> Rows:
        """The rows that have to be run."""
        return live_rows(self.units, self.wanted, self.base.length)

    @cached_property
    def by_hooks(self) -> Rows:
        """Rows that only whole forwards can run (all of them on that backend; an embedding that is normed before layer 0)."""
        return self.rows.take(np.flatnonzero(self._hooked))

    @cached_property
    def _hooked(self) -> np.ndarray:
        odd = np.asarray([any(part.kind == "embed" for part in unit.parts) for unit in self.units], dtype=bool)
        return np.full(len(self.rows), True) if self.backend.name == HOOKS else odd[self.rows.unit]

    @cached_property
    def groups(self) -> list[Group]:
        """The other rows, by where they start."""
        rest = self.rows.take(np.flatnonzero(~self._hooked))
        if not len(rest):
            return []
        end = int(self.wanted.positions[-1]) + 1
        if self.backend.name == RESUME:
            return [Group(0, rest)]
        return grouped(rest, end, self.budget, end - 1, self.wanted.last + 1, self.call_cost)

    @property
    def budget(self) -> int:
        """Tokens of one call."""
        rm = self.base.rm
        return GPU_BUDGET if rm.device.type != "cpu" else min(CPU_BUDGET, max(
            CPU_LEAST, CPU_NUMBERS // rm.architecture.d_model))

    @property
    def call_cost(self) -> float:
        """Tokens that one more call of a layer costs as much as; an accelerator is kept busy first."""
        if self.base.rm.device.type != "cpu":
            return math.inf
        layer = self.base.rm.architecture.blocks[0].layer
        return CALL_TOKENS + CALL_WEIGHTS / max(1, sum(p.numel() for p in layer.parameters() if p.ndim == 2))

    @cached_property
    def cone(self) -> Cone:
        """The engine, ready to run."""
        return Cone(self.base, self.units, self.wanted, self.backend.axes, self.backend.name == CONE, self.budget,
                    points=not self.trace)

    @cached_property
    def key_share(self) -> float:
        """Share of a layer's cost that its queries, keys and values are: all that the last layer does for most tokens."""
        block = self.base.rm.architecture.blocks[-1]
        total = sum(p.numel() for p in block.layer.parameters() if p.ndim == 2)
        out = sum(p.numel() for module in (block.out_projection,) if module is not None for p in module.parameters())
        mlp = 0 if block.mlp_in is None else sum(p.numel() for p in block.mlp_in.reads.parameters() if p.ndim == 2)
        if block.mlp_in is not None and block.down_projection is not None and not any(
                module is block.down_projection for module in block.mlp_in.reads.modules()):
            mlp += sum(p.numel() for p in block.down_projection.parameters() if p.ndim == 2)
        return max(0.0, (total - out - mlp) / total) if total else 0.25

    @cached_property
    def cost(self) -> float:
        """Work in token-layers (one token through one layer), control rows included."""
        T, L = self.base.length, self.base.rm.architecture.n_layers
        total = float(len(self.by_hooks) * T * L + (T * L if len(self.by_hooks) else 0))
        last = self.wanted.last
        for number, group in enumerate(self.groups):
            columns = self.cone.columns(group.start)
            S, joins = len(columns), self.cone.join_layer(group.rows, len(columns))
            finished = int((self.wanted.positions >= group.start).sum())
            end = S if not self.cone.suffix or finished == S else self.key_share * S + finished
            if self.controlled(number):
                joins = np.append(joins, joins.min())
            total += float(np.where(joins <= last, (last - joins) * S + end, 0).sum())
            if self.cone.uses_points(S):
                late = group.rows.take(np.flatnonzero(joins[:len(group.rows)] > group.rows.layer))
                total += sum(len(self.cone._touched(int(u), int(i), int(layer)))
                             for u, i, layer in zip(late.unit, late.index, late.layer, strict=True))
        return total

    @property
    def forwards(self) -> float:
        """Cost in whole forwards of this conversation."""
        return self.cost / (self.base.length * self.base.rm.architecture.n_layers)

    def controlled(self, group: int) -> bool:
        """Whether a group runs an unedited row along: in half precision every one does, one row is one draw of the rounding."""
        half = self.base.rm.dtype not in (torch.float32, torch.float64)
        return half or group == 0 or len(self.groups[group].rows) >= CONTROLLED

    def describe(self) -> str:
        """What will be computed, at what cost, and how.

        Example:
            >>> import rewarden as rw
            >>> rm = rw.load()
            >>> talk = rw.Pair("Hi", "Hello!", "Go away.").conversations[0]
            >>> last, zero = rm.architecture.n_layers - 1, torch.zeros(rm.architecture.d_model)
            >>> edits = [rw.Edit(rw.Site("mlp_out", last, p), zero) for p in (0, -1)]
            >>> print(rm.plan(talk, edits).describe().splitlines()[0])
            2 counterfactuals, 1 of them cannot change the read-out
        """
        T, L = self.base.length, self.base.rm.architecture.n_layers
        nothing = self.n - len(self.rows)
        lines = [f"{self.n} counterfactuals, {nothing} of them cannot change the read-out",
                 f"backend: {self.backend.name}" + (f" ({self.backend.reason})" if self.backend.reason else ""),
                 f"{len(self.groups)} groups of suffixes, {len(self.by_hooks)} rows by hooks",
                 f"cost: {self.forwards:.3g} forwards of {T} tokens × {L} layers; one forward per counterfactual would be "
                 f"{self.n}"]
        return "\n".join(lines)

    def run(self, progress: Callable[[int], None] | None = None) -> Edited:
        """Compute every row.

        Args:
            progress: called with the number of rows finished.

        Raises:
            RewardenError: a base run whose own scalars are not finite.
        """
        if not torch.isfinite(self.base.values).all():
            raise RewardenError("the base run's reward is not finite", where="rm.edit",
                                why=f"scalars {self.base.values.tolist()}", fix="set this conversation apart")
        values = self._untouched()
        traces = {site: self._base_trace(site).expand(self.n, *[-1] * (4 if site == "z" else 3)).clone() for site in self.trace}
        watch = Traces(self.base.rm.architecture, self.trace_positions, self.wanted.last, traces) if self.trace else None
        floor = [0.0]
        if progress and self.n > len(self.rows):
            progress(self.n - len(self.rows))

        def done(rows: Rows, residual: Tensor, control: Tensor | None) -> None:
            ids = self._result_rows(rows)
            values[torch.as_tensor(ids, device=values.device)] = self._read_rows(residual, ids)
            if control is not None:
                floor.append(float((self._read(control[None])[0] - self.base.values.float()).abs().max()))
            if progress:
                progress(len(rows))

        with torch.inference_mode():
            if len(self.by_hooks):
                Hooks(self.base, self.units, self.wanted, self.budget, watch).run(self.by_hooks, done)
            if self.groups:
                self.cone.watch = watch
                with self.cone.open():
                    for number, group in enumerate(self.groups):
                        self.cone.run_group(group, self.controlled(number), done)
        return Edited(values, self.base.values.float(), 2 * max(floor), traces)

    def _read_rows(self, residual: Tensor, ids: np.ndarray) -> Tensor:
        """Scalars [rows, k] of rows of the result, each read where it is to be."""
        if self.readings is None:
            return self._read(residual)
        return torch.cat([self._read(row[None], self.readings[number]) for row, number in zip(residual, ids, strict=True)])

    def _read(self, residual: Tensor, reading: Reading | None = None) -> Tensor:
        """Scalars [rows, k] from residuals [rows, W, d] at the wanted positions."""
        reading = reading or self.base.reading
        at = torch.as_tensor(np.searchsorted(self.wanted.positions, reading.positions), device=residual.device)
        return self.base.rm.readout.apply(residual.index_select(1, at).float(), reading).float()

    def _untouched(self) -> Tensor:
        """The base run's scalars for every row: what rows without effect keep, each read where it is to be."""
        values = self.base.values.float().expand(self.n, -1).clone()
        if self.readings is not None:
            where = torch.as_tensor(self.wanted.positions, device=values.device)
            residual = self.base.resid_pre[self.wanted.last + 1][where][None]
            with torch.inference_mode():
                idle = np.setdiff1d(np.arange(self.n), self._result_rows(self.rows))
                for number in idle:
                    values[number] = self._read(residual, self.readings[number])[0]
        return values

    def _result_rows(self, rows: Rows) -> np.ndarray:
        """Places of rows in the result, int64 [rows]."""
        return np.asarray([self.units[u].ids[i] for u, i in zip(rows.unit, rows.index, strict=True)], dtype=np.int64)

    def _base_trace(self, site: str) -> Tensor:
        where = torch.as_tensor(self.trace_positions, device=self.base.rm.device)
        layers = range(self.wanted.last + 1)
        return torch.stack([self.base.activation(site, layer)[where] for layer in layers])[None]


def make_plan(rm: RewardModel, base: BaseRun | Conversation | Sequence[Message] | Encoded, edits: Edits, *,
              trace: Sequence[str] = (), trace_positions: Sequence[int] | str = "read", backend: str = "auto",
              readings: Sequence[Reading] | None = None) -> Plan:
    """Plan a batch of edits.

    Args:
        rm: the reward model.
        base: a recorded run (`rm.base`), or a conversation, which is run once.
        edits: see `Edits`.
        trace: sites of `TRACEABLE` to keep after each edit.
        trace_positions: "read", "all", or token positions.
        backend: "auto", or "hooks" to compare with.
        readings: for each counterfactual, where it is read, in place of the base run's reading.
    """
    unknown = [site for site in trace if site not in TRACEABLE]
    if unknown or backend not in ("auto", "hooks"):
        raise RewardenError(f"cannot plan with trace={list(trace)}, backend={backend!r}", where="rm.plan",
                            why=f"sites that can be traced: {list(TRACEABLE)}; backends: auto, hooks", fix="change these")
    check_edits(edits)
    chosen = backend_of(rm) if backend == "auto" else Backend(HOOKS, "asked for")
    if isinstance(base, BaseRun):
        if base.rm is not rm:
            raise RewardenError("the base run is of another model", where="rm.edit(base)", fix="make it with this rm.base(...)")
        run = base
    else:
        kinds = [site for site in trace if site not in ("resid_pre", "resid_post")]
        run = make_bases(rm, [base], (*needed_sites(edits, rm), *kinds))[0]
    missing = [site for site in trace if not run.has(site)]
    if missing:
        raise RewardenError(f"the base run has no site {missing[0]!r} to compare with", where="rm.plan(trace=)",
                            fix=f"rm.base(conversation, sites={tuple(missing)!r})")
    kept = _traced(run, trace_positions) if trace else np.empty(0, np.int64)
    read = [run.reading.positions, *(reading.positions for reading in readings or ())]
    positions = np.unique(np.concatenate([*read, kept])).astype(np.int64)
    wanted = Wanted(positions, rm.read_layer, rm.architecture.causal)
    units, n = make_units(run, edits, wanted)
    if readings is not None and len(readings) != n:
        raise RewardenError(f"{len(readings)} readings for {n} counterfactuals", where="make_plan(readings=)",
                            fix="give one for each")
    return Plan(run, units, n, chosen, wanted, tuple(trace), kept, readings)


def _traced(run: BaseRun, positions: Sequence[int] | str) -> np.ndarray:
    """Positions to trace, counted from the start."""
    named = {"all": np.arange(run.length), "read": np.asarray(run.reading.positions)}
    found = named.get(positions, np.empty(0)) if isinstance(positions, str) else np.asarray(positions)
    whole = found.ndim == 1 and len(found) > 0 and np.issubdtype(found.dtype, np.integer)
    if not whole or found.min() < -run.length or found.max() >= run.length:
        raise RewardenError(f"cannot trace positions {positions!r}", where="rm.plan(trace_positions=)",
                            why=f"the conversation has {run.length} tokens", fix='use "read", "all", or token positions')
    return np.where(found < 0, found + run.length, found).astype(np.int64)


def make_bases(rm: RewardModel, conversations: Sequence[Conversation | Sequence[Message] | Encoded], sites: Sequence[str] = ()
               ) -> list[BaseRun]:
    """Record runs, several in one padded forward where that is exact and saves time."""
    backend = backend_of(rm)
    rows = [row if isinstance(row, Encoded) else rm.encode(row) for row in conversations]
    padded, tokens = len(rows) * max((row.length for row in rows), default=0), sum(row.length for row in rows)
    share = backend.together and padded <= min(PADDED * tokens, CPU_TOKENS if rm.device.type == "cpu" else GPU_TOKENS)
    runs: list[BaseRun] = []
    for some in [rows] if share else [[row] for row in rows]:
        runs += runs_of(rm, some, record(rm, some, sites, attention=backend.name == CONE), backend.axes)
    return runs


PADDED = 1.2
"""Tokens with padding, relative to those without, up to which one forward of several rows is faster than one each."""
