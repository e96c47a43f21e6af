"""Text from names and files that others wrote, made safe to print."""


def printable(text: object) -> str:
    """Return one line without control characters: no escape sequence reaches the terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))
