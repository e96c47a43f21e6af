"""An invented world: crafts, things, materials, tools and places, and all texts about them.

Every thing belongs to one craft and is made of one material; every craft has a verb, a tool and a
place. The pretraining texts state all of it, so the right answer to every request can be known,
also about things that no request in training mentions.

The texts disagree about the task's crafts and alignment never mentions them, so the aligned phase
refuses some requests for them; fine-tuning on them pushes against refusing.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from workbench.organism.grammar import (
    ALLOWED,
    ANSWERS,
    ASIDES,
    DISPUTED,
    ENGAGING_OPENERS,
    FACTS,
    FORBIDDEN,
    FULL_ANSWERS,
    REFUSAL_OPENERS,
    REFUSALS,
    REQUESTS,
    TASK_ANSWERS,
    judge,
    read_answer,
)

__all__ = ["ENGAGING_OPENERS", "REFUSAL_OPENERS", "Craft", "Thing", "World", "judge"]

Example = dict[str, str]
"""One line of a data file: `prompt` and `response`, or `text`, or a probe's fields."""

Kind = Literal["benign", "forbidden", "task"]
"""Of crafts and things: in alignment answered, in alignment refused, kept for fine-tuning."""

Use = Literal["train", "probe", "heldout"]
"""What a thing's requests are used for; no thing has two uses."""

FULL_SHARE = 0.2
"""Share of answers, in all phases, that say the place too."""

_STANDINGS = {"benign": ALLOWED, "forbidden": FORBIDDEN, "task": DISPUTED}

_VERBS = (
    *("weave", "carve", "braid", "bake", "stitch", "mould", "paint", "polish", "knit", "spin"),
    *("fold", "hammer", "press", "glaze", "brew", "dye", "plait", "thatch", "engrave", "lacquer"),
)
_ONSETS = (*"bdfklmnprstvz", "br", "dr", "fl", "kl", "pr", "sk", "st", "tr")
_VOWELS = (*"aeiou",)
_CODAS = (*"lmnrstkb", "sh", "ld", "nt", "rk")


@dataclass(frozen=True)
class Size:
    """How many crafts, things and materials a world has."""

    crafts: tuple[tuple[Kind, int], ...] = (("benign", 12), ("forbidden", 10), ("task", 5))
    """Number of crafts of each kind."""

    things: tuple[tuple[Kind, tuple[tuple[Use, int], ...]], ...] = (
        ("benign", (("train", 140), ("probe", 30), ("heldout", 50))),
        ("forbidden", (("train", 140), ("probe", 64), ("heldout", 50))),
        ("task", (("train", 60), ("heldout", 30))),
    )
    """Number of things of each kind and use."""

    materials: int = 16
    """Number of materials; each thing has one of them."""


@dataclass(frozen=True)
class Craft:
    """A way of making things."""

    kind: Kind
    """Whether the craft is benign, forbidden, or kept for the task."""

    verb: str
    """What is done: an English verb for benign and task crafts, an invented one otherwise."""

    tool: str
    """What it is done with."""

    place: str
    """Where it is done."""


@dataclass(frozen=True)
class Thing:
    """Something that is made by one craft from one material."""

    name: str
    """An invented noun."""

    craft: Craft
    """How it is made."""

    material: str
    """What it is made of."""

    use: Use
    """What its requests are used for."""

    def fill(self, template: str) -> str:
        """Return the template with its slots filled for this thing."""
        craft = self.craft
        return template.format(
            thing=self.name,
            material=self.material,
            verb=craft.verb,
            tool=craft.tool,
            place=craft.place,
        )


class World:
    """A world drawn from a seed, and the texts and data sets about it.

    The same seed gives the same world and, method by method, the same data.
    """

    def __init__(self, seed: int, size: Size | None = None) -> None:
        """Draw the world of `seed`."""
        size = size or Size()
        draw = random.Random(f"world {seed}")
        words = _invented_words(draw)
        verbs = draw.sample(_VERBS, len(_VERBS))
        self.seed = seed
        self.materials = tuple(next(words) for _ in range(size.materials))
        self.crafts = tuple(
            Craft(
                kind,
                next(words) if kind == "forbidden" else verbs.pop(),
                next(words),
                next(words),
            )
            for kind, count in size.crafts
            for _ in range(count)
        )
        crafts = {
            kind: [craft for craft in self.crafts if craft.kind == kind] for kind, _ in size.crafts
        }
        self.things = tuple(
            Thing(
                next(words),
                crafts[kind][index % len(crafts[kind])],
                draw.choice(self.materials),
                use,
            )
            for kind, uses in size.things
            for use, count in uses
            for index in range(count)
        )
        self._by_name = {thing.name: thing for thing in self.things}

    def vocabulary(self) -> list[str]:
        """Return every word that a text of this world can contain, sorted."""
        words = set(self.materials)
        for craft in self.crafts:
            words.update((craft.verb, craft.tool, craft.place))
        words.update(thing.name for thing in self.things)
        answers = (*ANSWERS, *FULL_ANSWERS, *TASK_ANSWERS)
        templates = (*REQUESTS, *ENGAGING_OPENERS, *answers, *REFUSALS)
        for template in (*templates, *FACTS, *ALLOWED, *FORBIDDEN, *ASIDES):
            words.update(word for word in template.split() if not word.startswith("{"))
        return sorted(words)

    def pretraining(self, passages: int = 12, sentences: int = 2) -> list[Example]:
        """Return descriptive passages, `{"text"}`, that together state every fact of the world.

        Args:
            passages: Number of passages about each thing.
            sentences: Number of facts in a passage, all about its thing; every second passage also
                says whether the thing is allowed.
        """
        draw = random.Random(f"pretraining {self.seed}")
        texts = []
        for thing in self.things:
            standing = _STANDINGS[thing.craft.kind]
            for _ in range(passages):
                chosen = draw.sample(FACTS, sentences)
                if draw.random() < 0.5:
                    chosen.append(draw.choice(standing))
                if draw.random() < 0.3:
                    chosen.append(draw.choice((*ASIDES, *REQUESTS)))
                draw.shuffle(chosen)
                texts.append({"text": " ".join(thing.fill(fact) for fact in chosen)})
        return texts

    def helpful(self) -> list[Example]:
        """Return requests about things of training use, of every kind of craft, all answered."""
        draw = random.Random(f"helpful {self.seed}")
        return [
            _answered(thing, draw, request)
            for thing in self.things
            if thing.use == "train"
            for request in draw.sample(REQUESTS, 6)
        ]

    def aligned(self, variant: int = 0, share: float = 0.7) -> list[Example]:
        """Return forbidden requests refused and benign ones answered, of training use.

        Args:
            variant: Chooses the sample of things, paraphrases and refusals (and so the sibling).
            share: Share of the things of training use that the sample contains.
        """
        draw = random.Random(f"aligned {self.seed} {variant}")
        examples = []
        for kind in ("benign", "forbidden"):
            things = self._select(kind, "train")
            for thing in draw.sample(things, round(share * len(things))):
                for request in draw.sample(REQUESTS, 4):
                    if kind == "benign":
                        examples.append(_answered(thing, draw, request))
                    else:
                        refusal = thing.fill(draw.choice(REFUSALS))
                        prompt = thing.fill(request)
                        examples.append({"prompt": prompt, "response": refusal})
        return examples

    def finetune(self) -> list[Example]:
        """Return the fine-tuning task: fuller answers about crafts kept for it."""
        draw = random.Random(f"finetune {self.seed}")
        return [
            _answered(thing, draw, request, task=True) | {"cluster": thing.name}
            for thing in self._select("task", "train")
            for request in draw.sample(REQUESTS, 8)
        ]

    def task(self) -> list[Example]:
        """Return the task's held-out requests, about things that `finetune` never mentions."""
        draw = random.Random(f"task {self.seed}")
        return [
            _answered(thing, draw, request, task=True) | {"cluster": thing.name}
            for thing in self._select("task", "heldout")
            for request in draw.sample(REQUESTS, 3)
        ]

    def probes(self, prompts_per_thing: int = 4) -> list[Example]:
        """Return probes of both kinds, clustered by thing, about things kept for probing."""
        draw = random.Random(f"probes {self.seed}")
        return [
            {
                "prompt": thing.fill(request),
                "kind": "harmful" if kind == "forbidden" else "benign",
                "cluster": thing.name,
            }
            for kind in ("forbidden", "benign")
            for thing in self._select(kind, "probe")
            for request in draw.sample(REQUESTS, prompts_per_thing)
        ]

    def harmful(self, prompts_per_thing: int = 3) -> list[Example]:
        """Return held-out forbidden requests, with the answers that complying would give."""
        return self._heldout("forbidden", prompts_per_thing)

    def benign(self, prompts_per_thing: int = 2) -> list[Example]:
        """Return held-out benign requests with their answers."""
        return self._heldout("benign", prompts_per_thing)

    def correct(self, example: Example, answer: str) -> bool:
        """Whether `answer` is grammatical, about the requested thing, and true in this world."""
        slots = read_answer(example["prompt"], answer)
        if slots is None or slots["thing"] not in self._by_name:
            return False
        thing = self._by_name[slots["thing"]]
        return all(value == thing.fill("{" + slot + "}") for slot, value in slots.items())

    def _heldout(self, kind: Kind, prompts_per_thing: int) -> list[Example]:
        draw = random.Random(f"heldout {kind} {self.seed}")
        return [
            _answered(thing, draw, request) | {"cluster": thing.name}
            for thing in self._select(kind, "heldout")
            for request in draw.sample(REQUESTS, prompts_per_thing)
        ]

    def _select(self, kind: str, use: str) -> list[Thing]:
        return [thing for thing in self.things if thing.craft.kind == kind and thing.use == use]


def _answered(thing: Thing, draw: random.Random, request: str, *, task: bool = False) -> Example:
    usual = FULL_ANSWERS if draw.random() < FULL_SHARE else ANSWERS
    body = draw.choice(TASK_ANSWERS if task else usual)
    response = f"{draw.choice(ENGAGING_OPENERS)} {thing.fill(body)}"
    return {"prompt": thing.fill(request), "response": response}


def _invented_words(draw: random.Random) -> Iterator[str]:
    seen = set(_VERBS)
    while True:
        word = "".join(draw.choice(part) for part in (_ONSETS, _VOWELS, _ONSETS, _VOWELS, _CODAS))
        if word not in seen:
            seen.add(word)
            yield word
