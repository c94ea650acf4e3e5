"""Where models come from: local folders, hub names, installed packages, depth-pruned copies (floor F3)."""
