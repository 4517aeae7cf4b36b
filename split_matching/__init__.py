"""Split Matching: the one name for its five rooms, which lie beside this folder and are linked into it."""
