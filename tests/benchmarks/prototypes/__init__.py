"""Ways to do the package's work that it does not take, or not yet, each beside its present one."""
