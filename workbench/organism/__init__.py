"""The embedded model organism: an invented world, its tokenizer, and the recipe of its phases."""
