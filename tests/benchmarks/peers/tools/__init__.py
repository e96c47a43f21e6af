"""One file per tool, with the jobs it can do; imports of a tool stand inside of functions."""
