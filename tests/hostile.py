"""Hostile files: strategies that spoil good ones, and what must hold of whatever reads them."""

import faulthandler
import json
import math
import os
import resource
import shutil
import signal
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from workbench.errors import WorkbenchError

SECONDS = 10
"""No reader may take longer over one small file."""

GIGABYTES = 4
"""Nor more memory than this."""

TEXTS = (
    *("", " ", "\0", "a\0b", "../../../../etc/passwd", "/dev/zero", "..", ".", "~root", "\ud800"),
    *("\x1b[2J\x1b]0;owned\x07", "<script>alert(1)</script>", "a\nb\r\nc", "\u202eevil", "\ufeffx"),
    *("x" * 5000, "{step}", "{", "%s%n", "nan", "-1", "NULL", "hub/id", "con/../x", "é" * 300),
)
NUMBERS = (
    *(0, -1, 1, 2, 3, 255, 2**31, 2**63, -(2**63), 10**9, 10**30, 10**400, 1.5, -0.0, 1e308),
    *(float("nan"), float("inf"), -float("inf")),
)
PLAIN = (None, True, False, *NUMBERS, *TEXTS)
NAMES = (
    "",
    "name",
    "schema",
    "__class__",
    "step",
    "unknown",
    "\x1b[31m",
    "a\nb",
    "\ud800",
    "x" * 300,
)

values = st.one_of(
    st.sampled_from(PLAIN),
    st.recursive(
        st.sampled_from(PLAIN),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from((200, 3000, 200_000)).map(lambda depth: Raw("[" * depth + "]" * depth)),
)


class Raw(str):
    """Text that stands in a JSON file as it is."""


class Twice(dict):
    """An object whose first key is written twice."""


def to_json(value):
    """JSON with everything that writers should not write: NaN, surrogates, keys that come twice."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        pairs = [f"{json.dumps(str(key))}: {to_json(one)}" for key, one in value.items()]
        return f"{{{', '.join(pairs + pairs[:1] * isinstance(value, Twice))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_json, value))}]"
    return json.dumps(value)


def places(value, here=()):
    """Every place in nested JSON values, as keys from the outside in."""
    yield here
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*here, key))


def edited(value, place, change):
    """A copy of `value` with `change` made to what is at a place."""
    if not place:
        return change(value)
    copy = value.copy()
    first, *rest = place
    copy[first] = edited(copy[first], rest, change)
    return copy


GONE = object()


def without(value):
    if isinstance(value, dict):
        return {key: without(one) for key, one in value.items() if one is not GONE}
    return [without(one) for one in value if one is not GONE] if isinstance(value, list) else value


@st.composite
def objects(draw, good):
    """A good JSON value with one to three things changed in it."""
    value = good
    for _ in range(draw(st.integers(1, 3))):
        # Near the top most: what is at the bottom stands there a hundred times.
        known = sorted(set(places(value)), key=lambda place: (len(place), str(place)))
        place = draw(st.sampled_from(known[:40]) | st.sampled_from(known))
        kind = draw(st.sampled_from(("other", "other", "gone", "more", "twice", "wrapped", "same")))
        if kind == "gone" and place:
            value = without(edited(value, place, lambda _: GONE))
            continue
        new = draw(values)
        name = draw(st.sampled_from(NAMES))
        changes = {
            "other": lambda _, new=new: new,
            "more": lambda old, new=new, name=name: (
                old | {name: new} if isinstance(old, dict) else [old, new]
            ),
            "twice": lambda old: Twice(old) if isinstance(old, dict) else [old, old],
            "wrapped": lambda old: [old],
        }
        value = edited(value, place, changes.get(kind, lambda old: old))
    return value


@st.composite
def spoilt(draw, content):
    """Good bytes with some of them changed, cut off or put in."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(("bit", "cut", "put", "drop", "double", "big", "crlf", "head")))
        if kind == "bit" and content:
            flipped = content[at] ^ (1 << draw(st.integers(0, 7)))
            content = content[:at] + bytes([flipped]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "put":
            odd = (
                b"\0",
                b"\xff",
                b"\xed\xa0\x80",
                b"\n",
                b"\r\n",
                b'"',
                b"{",
                b"]",
                b"\xef\xbb\xbf",
            )
            content = (
                content[:at] + draw(st.sampled_from(odd) | st.binary(max_size=9)) + content[at:]
            )
        elif kind == "drop":
            content = content[:at] + content[at + draw(st.integers(1, 40)) :]
        elif kind == "double":
            content = content + content[at:]
        elif kind == "big":  # where a length may stand
            size = draw(st.sampled_from((0, 1, 2**31, 2**40, 2**63, 2**64 - 1)))
            at = draw(st.sampled_from((0, 8, 16, at)))
            content = content[:at] + size.to_bytes(8, "little") + content[at + 8 :]
        elif kind == "crlf":
            content = content.replace(b"\n", b"\r\n")
        else:
            content = (
                draw(st.sampled_from((b"\xef\xbb\xbf", b"\xff\xfe", b"PK\3\4", b"\x80\2")))
                + content
            )
    return content


def json_files(good):
    """Bytes of a JSON file made from a good value."""
    return st.one_of(
        objects(good).map(lambda value: to_json(value).encode()),
        objects(good).map(lambda value: to_json(value).encode()),
        spoilt(json.dumps(good).encode()),
        st.binary(max_size=60),
    )


def safetensors_files(content):
    """Bytes of a safetensors file: the header edited, or bytes changed anywhere."""
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]

    def packed(header, data=data):
        text = to_json(header).encode()
        return len(text).to_bytes(8, "little") + text + data

    told = header.get("__metadata__", {}).get("workbench")
    names = sorted(header.keys() - {"__metadata__"})
    other = st.sampled_from(("flat", "turned", "deeper", "whole"))
    shaped = st.tuples(st.sampled_from(names), other).map(
        lambda told: packed(header | {told[0]: reshaped(header[told[0]], told[1])})
    )
    kinds = [objects(header).map(packed), spoilt(content), st.binary(max_size=60), shaped]
    if told is not None:
        about = objects(json.loads(told)).map(to_json) | spoilt(told.encode()).map(
            lambda odd: odd.decode("utf-8", "replace")
        )
        with_about = about.map(
            lambda text: packed(
                header | {"__metadata__": header["__metadata__"] | {"workbench": text}}
            )
        )
        kinds += [with_about, with_about]
    return st.one_of(kinds)


def reshaped(told, how):
    """A tensor of the same bytes with another shape, or of whole numbers."""
    shape = told["shape"]
    if how == "whole":
        same = {"F64": "I64", "F32": "I32", "F16": "I16", "BF16": "U16"}
        return told | {"dtype": same.get(told["dtype"], told["dtype"])}
    shapes = {"flat": [math.prod(shape)], "turned": shape[::-1], "deeper": [1, *shape]}
    return told | {"shape": shapes[how]}


SPECIAL = ("folder", "fifo", "zero", "loop", "gone", "nowhere", "full", "null")
"""What may stand where a file should be."""


def put_special(path, kind):
    """Put something that is no plain file at a path."""
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind != "gone":
        to = {"zero": "/dev/zero", "full": "/dev/full", "null": "/dev/null", "loop": path.name}
        path.symlink_to(to.get(kind, "nowhere"))


def take_away(path):
    """Remove whatever is at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put(path, what):
    """Put bytes at a path, or, where `what` is a name of `SPECIAL`, no plain file."""
    take_away(path)
    if isinstance(what, bytes):
        path.write_bytes(what)
    else:
        put_special(path, what)


class Hung(BaseException):
    """A reader that took too long; no reader's `except Exception` catches it."""


@contextmanager
def modest(size=GIGABYTES * 10**9):
    """Let what takes more memory than there is now, and `size`, end in `MemoryError`."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def hurried(seconds=SECONDS):
    """Raise `Hung` in what takes longer."""

    def ring(*_):
        raise Hung(f"took over {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    # What waits outside of Python hears no alarm: that ends the process, and tells where it was.
    faulthandler.dump_traceback_later(3 * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def standing(folder):
    """Everything below a folder, and when each was written."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            stat = path.lstat()
            found[str(path)] = (stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return found


TRIED: Counter[str] = Counter()
"""How many files each reader was given."""

REFUSED: Counter[str] = Counter()
"""How many of them it refused."""


def check_reader(name, read, folder):
    """Read; it must work or end in one printable line, soon, and leave the folder as it was."""
    before = standing(folder)
    TRIED[name] += 1
    try:
        with hurried(), modest():
            read()
    except WorkbenchError as error:
        REFUSED[name] += 1
        message = str(error)
        assert message and message.isprintable(), f"{message[:300]!r}"
        assert len(message) < 3000, f"{len(message)} characters: {message[:300]!r}"
    assert standing(folder) == before, "something was written"


def trying(count):
    """Settings of a test that tries `count` files; the same ones each time."""
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
