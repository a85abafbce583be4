"""The world of brains: anatomy, susceptibility and the field that it makes."""
