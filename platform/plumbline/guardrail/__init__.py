"""Guardrails: a classifier of violations, whose threshold exists only on a card with measured errors."""

from plumbline.guardrail.examples import GuardrailExample, read_examples
from plumbline.guardrail.fitting import fit_guardrail
from plumbline.guardrail.guarding import Action, Decision, Guardrail, load, read_guardrail, save_guardrail

__all__ = [
    "Action",
    "Decision",
    "Guardrail",
    "GuardrailExample",
    "fit_guardrail",
    "load",
    "read_examples",
    "read_guardrail",
    "save_guardrail",
]
