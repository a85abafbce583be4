"""Looking into and steering attention: one mechanism for every method, on stock diffusers networks.

`AttentionControl` holds rules on a network for as long as a `with` block lasts; `sites` and `when` choose where and when they act.
"""

from __future__ import annotations

from calotype.attention.captures import Capture, KeySums, Reducer, TokenMaps, attention_probabilities
from calotype.attention.control import AttentionControl
from calotype.attention.qkv import AttentionInputs
from calotype.attention.rules import Inject, KeyBias, KeyScale, Order, OutBlend, Rule, Swap
from calotype.attention.sites import Selector, Site, attention_sites, everywhere, sites
from calotype.core.stepping import StepContext, always, when

__all__ = [
    "AttentionControl",
    "AttentionInputs",
    "Capture",
    "Inject",
    "KeyBias",
    "KeyScale",
    "KeySums",
    "Order",
    "OutBlend",
    "Reducer",
    "Rule",
    "Selector",
    "Site",
    "StepContext",
    "Swap",
    "TokenMaps",
    "always",
    "attention_probabilities",
    "attention_sites",
    "everywhere",
    "sites",
    "when",
]
