"""Where a figure comes from, written into its file: PDF, SVG and PNG."""

import html
import re
import struct
import zlib
from collections.abc import Mapping

from workbench.text import printable

DPI = 300
POINTS = 72
KEY = 79
"""Bytes of a PNG's key, at the most."""

PNG_HEAD = 8 + 25
"""Bytes: of the signature and of the first chunk, after which others may stand."""


def stamp_svg(content: bytes, facts: Mapping[str, str], width: float) -> bytes:
    """Return an SVG with its width in inches and `facts` as <metadata>, a line each."""
    text = content.decode("utf-8")
    head = re.search(r"<svg[^>]*>", text)
    if head is None:
        raise ValueError("This is no SVG.")
    box = re.search(r'viewBox="([^"]*)"', head[0])
    # All of the attributes' numbers are in pixels (plotly) or points (matplotlib).
    _, _, across, up = map(float, box[1].split()) if box else (0.0, 0.0, 1.0, 1.0)
    sized = re.sub(r'\bwidth="[^"]*"', f'width="{width:.6g}in"', head[0], count=1)
    sized = re.sub(r'\bheight="[^"]*"', f'height="{width * up / across:.6g}in"', sized, count=1)
    told = html.escape("\n".join(printable(f"{key}: {value}") for key, value in facts.items()))
    after = f"{sized}<metadata>{told}</metadata>"
    return (text[: head.start()] + after + text[head.end() :]).encode("utf-8")


def stamp_png(content: bytes, facts: Mapping[str, str]) -> bytes:
    """Return a PNG with its resolution (pHYs) and `facts` as text (tEXt)."""
    per_metre = round(DPI / 0.0254)
    chunks = [_chunk(b"pHYs", struct.pack(">IIB", per_metre, per_metre, 1))]
    for key, value in facts.items():
        text = value.encode("latin-1", "backslashreplace")
        word = key.encode("latin-1", "backslashreplace")[:KEY] or b"Comment"
        chunks.append(_chunk(b"tEXt", word + b"\0" + text))
    return content[:PNG_HEAD] + b"".join(chunks) + _without(content[PNG_HEAD:], b"pHYs")


def stamp_pdf(content: bytes, facts: Mapping[str, str], width: float) -> bytes:
    """Return a PDF with its width in inches and `facts` in its document information.

    Both are appended as an update, which leaves what is there byte for byte as it is.

    Args:
        content: Of one page, with an ordinary cross-reference table.
        facts: To be told.
        width: Browsers round it to a quarter of a point; here it is exact.
    """
    root = _last(rb"/Root (\d+ \d+ R)", content).decode()
    size, before = (int(_last(of, content)) for of in (rb"/Size (\d+)", rb"startxref\s+(\d+)"))
    page = re.search(rb"(\d+) 0 obj\s*(<<(?:(?!endobj).)*?/Type\s*/Page\b.*?)endobj", content, re.S)
    if page is None:
        raise ValueError("This PDF has no page that can be found.")
    box = f"/MediaBox [0 0 {width * POINTS:.4f} \\1]".encode()
    number = rb"[\d.]+"
    sized = re.sub(rb"/MediaBox\s*\[\s*0 0 " + number + rb" (" + number + rb")\s*\]", box, page[2])
    info = "".join(f"/{_key(key)} {_text(value)}\n" for key, value in facts.items())
    parts = {int(page[1]): sized.rstrip(), size: f"<<{info}>>".encode()}
    out, table = content if content.endswith(b"\n") else content + b"\n", b""
    for at, body in parts.items():
        table += b"%d 1\n%010d 00000 n \n" % (at, len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (at, body)
    trailer = f"<</Size {size + 1} /Root {root} /Info {size} 0 R /Prev {before}>>"
    return out + b"xref\n" + table + f"trailer\n{trailer}\nstartxref\n{len(out)}\n%%EOF\n".encode()


def _last(pattern: bytes, content: bytes) -> bytes:
    found = re.findall(pattern, content)
    if not found:
        raise ValueError(f"This PDF has no {pattern!r}.")
    return found[-1]


def _key(key: str) -> str:
    """A PDF name: Title and the like as they are, others in one word; no ASCII as its bytes."""
    word = "".join(word[:1].upper() + word[1:] for word in re.findall(r"[^\W_]+", key)) or "Note"
    return "".join(
        chr(byte) if byte < 128 else f"#{byte:02X}" for byte in word.encode("utf-8", "replace")
    )


def _text(value: str) -> str:
    """A PDF string in UTF-16, as hexadecimal digits."""
    return f"<{(chr(0xFEFF) + value).encode('utf-16-be', 'replace').hex()}>"


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _without(chunks: bytes, kind: bytes) -> bytes:
    """The chunks but those of a kind."""
    kept, at = b"", 0
    while at < len(chunks):
        end = at + 12 + int.from_bytes(chunks[at : at + 4], "big")
        if chunks[at + 4 : at + 8] != kind:
            kept += chunks[at:end]
        at = end
    return kept
