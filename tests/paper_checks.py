"""What a printed file says of itself: page, fonts, words, chunks."""

import re
import shutil
import struct
import subprocess

import pytest


def poppler(tool, *arguments):
    """Output of a poppler tool; the test is skipped where it is missing."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is missing: install poppler-utils")
    done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=True)
    assert "Error" not in done.stderr
    return done.stdout


def page_points(path):
    """Width and height of the first page."""
    told = re.search(r"Page size:\s+([\d.]+) x ([\d.]+)", poppler("pdfinfo", path))
    return float(told[1]), float(told[2])


def fonts(path):
    """Lines of pdffonts, split from the right: type, encoding, emb, sub, uni."""
    return poppler("pdffonts", path).splitlines()[2:]


def words(path):
    """Boxes of all words: left, top, right, bottom, in points."""
    text = poppler("pdftotext", "-bbox", path, "-")
    box = r'xMin="([-\d.]+)" yMin="([-\d.]+)" xMax="([-\d.]+)" yMax="([-\d.]+)">([^<]*)<'
    return [(*map(float, found[:4]), found[4]) for found in re.findall(box, text)]


def check_pdf(path, inches):
    """The width is exact, every font is embedded and none is Type 3, all words are on the page."""
    width, height = page_points(path)
    assert width == pytest.approx(72 * inches, abs=0.02)
    lines = fonts(path)
    assert lines
    for line in lines:
        assert "Type 3" not in line
        assert re.search(r"\byes (yes|no) (yes|no)\s+\d+\s+\d+$", line), line
    boxes = words(path)
    assert len(boxes) > 5
    for left, top, right, bottom, word in boxes:
        assert min(left, top) >= -0.5, word
        assert right <= width + 0.5, word
        assert bottom <= height + 0.5, word
    return boxes


def overlapping(boxes):
    """Pairs of words that lie on each other."""
    found = []
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            across = min(one[2], other[2]) - max(one[0], other[0])
            up = min(one[3], other[3]) - max(one[1], other[1])
            # Boxes of lines touch; a subscript stands within its line.
            if across > 0.5 and up > 3:
                found.append((one[4], other[4]))
    return found


def png_chunks(content):
    """Kind and content of every chunk."""
    at, found = 8, []
    while at < len(content):
        size = struct.unpack(">I", content[at : at + 4])[0]
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += size + 12
    return found
