"""One file per paper. A method is a frozen dataclass that can be called; methods never import each other."""
