"""Open-vocabulary attention maps (OVAM, arXiv 2403.14291): maps and masks of any words from one look of a text-to-image model."""

from calotype.methods.ovam.finding import word_mask
from calotype.methods.ovam.method import METHOD, OpenVocabularyAttentionMaps
from calotype.methods.ovam.queries import AttentionQueries
from calotype.methods.ovam.tokens import Token, fit_token

__all__ = ["METHOD", "AttentionQueries", "OpenVocabularyAttentionMaps", "Token", "fit_token", "word_mask"]
