"""Critters: small characters of a body, a head with a face, two arms and two legs that are alike, and a tail, on a table.

`drawing` has other, flat ones, which the autoencoder of the toy family has seen.
"""
