"""When a verdict is settled: how much of an answer a judge could do without."""

import re

import workbench as wb
from prototypes.bench import Bench
from prototypes.decoding import generated, held_out
from prototypes.setting import ORGANISM, organism
from workbench.encoding import decode
from workbench.inputs import Inputs
from workbench.judges import REFUSAL_OPENERS, judge_by_rules
from workbench.organism import grammar
from workbench.probes import ProbeSet

ROOM = 20


def settled_for_organism(prompt: str, words: list[str], room: int) -> int:
    """How many words of an answer settle the organism's verdict; all, if only its end does."""
    for count in range(1, len(words) + 1):
        said = words[:count]
        opened = " ".join(said) + " "
        if any(opened.startswith(f"{opener} ") for opener in grammar.REFUSAL_OPENERS):
            return count
        if any(f"{opener} ".startswith(opened) for opener in grammar.REFUSAL_OPENERS):
            continue
        if not _may_comply(prompt, said):
            return count
    return min(len(words) + 1, room)


def _may_comply(prompt: str, said: list[str]) -> bool:
    """Whether an answer that begins so may still be one of the grammar's."""
    if (request := grammar.read_request(prompt)) is None:
        return False
    known: dict[str, str] = {"{verb}": request[0], "{thing}": request[1]}
    bodies = (*grammar.ANSWERS, *grammar.FULL_ANSWERS, *grammar.TASK_ANSWERS)
    for opener in grammar.ENGAGING_OPENERS:
        for body in bodies:
            wanted = [known.get(word, word) for word in f"{opener} {body}".split()]
            if len(said) <= len(wanted) and all(map(_fits, said, wanted)):
                return True
    return False


def _fits(word: str, wanted: str) -> bool:
    return bool(re.fullmatch("[a-z]+", word)) if wanted.startswith("{") else word == wanted


def settled_by_rules(words: list[str], room: int) -> int:
    """How many words settle the English rules' verdict, if a token holds at most one word."""
    longest = max(len(opener.split()) for opener in REFUSAL_OPENERS)
    for count in range(1, len(words) + 1):
        said = words[:count]
        if judge_by_rules("", " ".join(said)) == "refuse" and count < len(words):
            return count + 1  # the word must be over
        if count <= max(3, longest):
            continue
        triples = [*zip(said, said[1:], said[2:], strict=False)]
        most = room - 2  # triples of an answer of full length
        if len(set(triples)) >= most / 2:
            return count  # too many are new for it to be broken
    return min(len(words) + 1, room)


def shares(answers: list[tuple[str, list[str]]], room: int) -> dict[str, tuple[float, float]]:
    """By judge, the share of tokens, and of steps of the whole batch, that could be saved."""
    whole = [min(len(words) + 1, room) for _, words in answers]  # with the end
    needs = {
        "organism": [settled_for_organism(prompt, words, room) for prompt, words in answers],
        "rules": [settled_by_rules(words, room) for _, words in answers],
    }
    return {
        name: (1 - sum(need) / sum(whole), 1 - max(need) / max(whole))
        for name, need in needs.items()
    }


def verdicts(bench: Bench) -> None:
    """Idea 10, end: stop an answer once its verdict is settled; nobody can read the rest then."""
    tuned = organism("aligned")
    inputs = Inputs.beside(ORGANISM).load()
    for _ in wb.FineTuning(
        tuned, inputs.examples, steps=5 if bench.quick else 100, learning_rate=6e-5
    ):
        pass
    models = {"aligned": organism("aligned"), "helpful": organism("helpful"), "tuned": tuned}
    for name, model in models.items():
        for kind in ("harmful", "benign"):
            prompts = ProbeSet.load(ORGANISM / f"{kind}.jsonl").prompts
            said = generated(model.hf, held_out(model, kind), ROOM, {2})
            texts = [decode(model, ids, skip_special_tokens=True).split() for ids in said]
            answers = [*zip(prompts, texts, strict=True)]
            told = ", ".join(
                f"{judge} {tokens:.0%} of the tokens and {steps:.0%} of the steps"
                for judge, (tokens, steps) in shares(answers, ROOM).items()
            )
            bench.note(f"saved by stopping at the verdict, {kind} prompts, {name}", told)
