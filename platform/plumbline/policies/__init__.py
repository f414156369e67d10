"""A policy as something to ask: render a template, generate, log-likelihood. Local or remote, one interface.

`LocalPolicy` (torch, transformers) and `RemotePolicy` (an OpenAI-compatible endpoint) are imported from their own
modules, so that asking for the interface costs nothing.
"""

from plumbline.policies.base import Completion, Interrupted, LogLikelihood, NoLikelihood, Policy

__all__ = ["Completion", "Interrupted", "LogLikelihood", "NoLikelihood", "Policy"]
