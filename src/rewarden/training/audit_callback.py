"""How does a trainer run an outcome audit, and stop by it?

In: an `OutcomeAudit`. Out: a callback of transformers' trainers, TRL's among them. Ignorant of what is audited. In a run of
several processes each looks by itself, at the same completions, so that all stop at the same step; one of them writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewarden.errors import RewardenError

if TYPE_CHECKING:
    from rewarden.training.outcome_audit import OutcomeAudit


def audit_callback(audit: OutcomeAudit) -> Any:
    """See `OutcomeAudit.callback`."""
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise RewardenError("transformers is not installed", where="OutcomeAudit.callback", why=str(error),
                            fix="pip install transformers, or call audit(step) yourself") from error

    class OutcomeAuditCallback(TrainerCallback):
        """Looks, logs, stops."""

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
            most, every = audit.options.looks, audit.options.every
            planned = len(audit.looks[1:]) + -(-(state.max_steps - state.global_step) // every)
            if most is not None and planned > most:
                raise RewardenError(f"{planned} looks are planned", where="OutcomeAudit(looks=)",
                                    why=f"alpha is spent on {most}", fix=f"looks={planned}, or leave it out")
            audit.bind(model)
            if not audit.looks:
                self._look(state, control)

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step % audit.options.every == 0:
                self._look(state, control)

        def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if audit.looks[-1].step != state.global_step:
                self._look(state, control)

        def _look(self, state: Any, control: Any) -> None:
            look = audit.audit(state.global_step, write=state.is_world_process_zero)
            told = {"audit/accuracy": float(look.accuracy.estimate), "audit/accuracy_low": float(look.accuracy.low),
                    "audit/accuracy_high": float(look.accuracy.high), "audit/stop": float(look.stop), "step": state.global_step}
            state.log_history.append(told)
            if look.stop:
                control.should_training_stop = True

    return OutcomeAuditCallback()
