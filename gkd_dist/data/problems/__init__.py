"""Templates of the embedded word problems, grouped by theme; `data/word_problems.py` draws from them."""
