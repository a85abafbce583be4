"""Portraits: drawn busts whose skin tone, hair, clothes and light are known, as a photo and as a drawing."""
