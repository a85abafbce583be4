"""Values that one method makes for another (`word:house` is the mask of the house in a picture), and methods in sequence."""

from calotype.chains.masks import WORD, is_word, mask_from
from calotype.chains.running import ChainRun, is_chain, rerun_chain, resume_chain, run_chain
from calotype.chains.sequence import Chain, Link, Reference

__all__ = [
    "WORD",
    "Chain",
    "ChainRun",
    "Link",
    "Reference",
    "is_chain",
    "is_word",
    "mask_from",
    "rerun_chain",
    "resume_chain",
    "run_chain",
]
