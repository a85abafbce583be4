"""Values that one method makes for another: `word:house` is the mask of the house in a picture."""

from calotype.chains.masks import WORD, is_word, mask_from

__all__ = ["WORD", "is_word", "mask_from"]
