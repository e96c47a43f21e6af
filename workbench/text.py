"""Text from names and files that others wrote, made safe to print."""


def printable(text: object) -> str:
    """Return one line without control characters: no escape sequence reaches the terminal."""
    return visible(" ".join(str(text).split()))


def visible(text: object) -> str:
    """Return the text, a space for each character that is not printable: as long as it was."""
    return "".join(c if c.isprintable() else " " for c in str(text))
