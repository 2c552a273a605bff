"""Look at reward models: what was found in one, and how well its self-check went."""

from __future__ import annotations

from typing import Any

from rewarden.cli.flags import Load, Output, OutputOptions, with_model
from rewarden.cli.inputs import model_of
from rewarden.cli.terminal import Outcome, table
from rewarden.options import LoadOptions


def inspect_(model: str | None = None, /, *, load: Load = LoadOptions(), output: Output = OutputOptions()) -> Outcome:
    """What rewarden found in a model: structure, read-out, template, how edits run, self-check, noise floor.

    Args:
        model: Hub id or folder, as --model.
    """
    from rewarden.edits import backend_of

    rm = model_of(with_model(load, model), quiet=output.quiet)
    found, backend = rm.architecture, backend_of(rm)
    structure = {"layers": found.n_layers, "width": found.d_model, "heads": found.n_heads, "causal": found.causal,
                 "final norm": type(found.final_norm).__name__ if found.final_norm is not None else "none",
                 "learned positions": found.position_embedding is not None}
    data: dict[str, Any] = {"name": rm.name, "scalars": list(rm.names), "structure": structure,
                            "gaps": dict(found.gaps),
                            "edits": {"backend": backend.name, "reason": backend.reason, "deviation": backend.error},
                            "provenance": rm.provenance(), "health": rm.health}
    rows = [("name", rm.name), ("scalars", ", ".join(rm.names)), *structure.items(), *data["provenance"].items()]
    rows.append(("edits run by", backend.name + (f": {backend.reason}" if backend.reason else "")))
    rows += [(f"not found: {part}", reason) for part, reason in data["gaps"].items()]
    return Outcome(data, (table("Model", ("what", "found"), rows),
                          table("Self-check", ("what", "value"), list(data["health"].items()))))
