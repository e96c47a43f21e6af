"""Where a model comes from: a folder, a file or the hub, and what must hold of what is there."""
