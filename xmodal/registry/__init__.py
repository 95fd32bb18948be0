"""Weights as things: which frozen models there are, where their weights lie, under which terms, and how they are read."""

from xmodal.registry.models import available, card, listing, load, resolve

__all__ = ["available", "card", "listing", "load", "resolve"]
