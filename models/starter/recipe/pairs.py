"""Read the public preference sources of a data folder into one list of pairs."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import openpyxl
from pyarrow import parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Message = dict[str, str]


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, the first of them preferred.

    ``group`` names what must stay on one side of the split: the prompt, problem or topic.
    """

    id: str
    source: str
    group: str
    prompt: tuple[tuple[str, str], ...]
    chosen: str
    rejected: str

    def messages(self) -> list[Message]:
        """The prompt as chat messages."""
        return [{"role": role, "content": content} for role, content in self.prompt]


def fraction(text: str) -> float:
    """A number in [0, 1) that depends on nothing but the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def normalise(text: str) -> str:
    """Text as it is compared for equality of prompts."""
    return " ".join(text.lower().replace("\u2019", "'").split())


def ask(text: str) -> tuple[tuple[str, str], ...]:
    """A prompt of one user message."""
    return (("user", text.strip()),)


def pair(
    source: str, prompt: tuple[tuple[str, str], ...], better: str, worse: str, group: str
) -> Pair:
    """A pair whose identity is the hash of its texts."""
    text = "\x1f".join([source, *(part for turn in prompt for part in turn), better, worse])
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Pair(f"{source}-{name}", source, group, prompt, better.strip(), worse.strip())


def lines(path: Path) -> Iterator[dict]:
    """The objects of a gzipped JSON lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def arena(folder: Path) -> Iterator[Pair]:
    """Answers to one arena prompt whose GPT-4 ratings differ by two points or more."""
    base = folder / "arena-bench-v1"
    questions = {q["question_id"]: q["turns"][0] for q in lines(base / "question.jsonl.gz")}
    answers: dict[tuple[str, str], str] = {}
    for path in sorted((base / "model_answer").glob("*.jsonl.gz")):
        for row in lines(path):
            answers[row["question_id"], row["model_id"]] = row["choices"][0]["turns"][0]
    ratings: dict[str, dict[str, float]] = defaultdict(dict)
    for path in sorted((base / "model_judgment").glob("*.jsonl.gz")):
        for row in lines(path):
            if (row["question_id"], row["model"]) in answers and (row["score"] or 0) > 0:
                ratings[row["question_id"]][row["model"]] = row["score"]
    for question in sorted(ratings):
        for one, two in itertools.combinations(sorted(ratings[question].items()), 2):
            if abs(one[1] - two[1]) < 2:
                continue
            best, worst = (one, two) if one[1] > two[1] else (two, one)
            yield pair(
                "arena-bench",
                ask(questions[question]),
                answers[question, best[0]],
                answers[question, worst[0]],
                normalise(questions[question]),
            )


def arguments(folder: Path) -> Iterator[Pair]:
    """Pairs of arguments on one side of a debate; the group is the debate, not the side."""
    for path in sorted((folder / "ukp-convarg1-strict").glob("*.csv.gz")):
        topic, _, side = path.name.removesuffix(".csv.gz").partition("_")
        prompt = ask(
            f"Give a convincing argument. Debate: {topic.replace('-', ' ').strip()}. "
            f"Side: {side.replace('-', ' ').strip()}."
        )
        with gzip.open(path, "rt", encoding="utf-8") as file:
            next(file)
            for line in file:
                _, label, one, two = line.rstrip("\n").split("\t")
                one, two = one.replace("<br/>", "\n"), two.replace("<br/>", "\n")
                best, worst = (one, two) if label == "a1" else (two, one)
                yield pair("ukp-arguments", prompt, best, worst, "debate " + topic)


def tools(folder: Path) -> Iterator[Pair]:
    """The nine question sets of Themis, one source each."""
    for path in sorted((folder / "themis").glob("*.json.gz")):
        kind = path.name.split("-")[0]
        for row in lines(path):
            question = row["question"].strip()
            yield pair(
                f"themis-{kind}",
                ask(question),
                row["pos_answer"]["answer"],
                row["neg_answer"]["answer"],
                normalise(question),
            )


def passages(folder: Path) -> Iterator[Pair]:
    """Answers to a question over passages, compared by people."""
    with gzip.open(folder / "fine-grained-rlhf" / "dev_feedback.json.gz", "rt") as file:
        rows = json.load(file)
    for row in rows:
        text = "\n".join(" ".join(part[1:]) for part in row["passages"])
        prompt = ask(f"{text}\n\n{row['question']}")
        answers = [row[f"prediction {number}"] for number in range(1, 5)]
        for (one, two), label in zip(
            itertools.combinations(answers, 2), row["preference"], strict=True
        ):
            if label:
                best, worst = (one, two) if label == 1 else (two, one)
                yield pair("fine-grained-rlhf", prompt, best, worst, normalise(row["question"]))


def sums(folder: Path) -> Iterator[Pair]:
    """Right against wrong solutions of one school problem."""
    path = folder / "grade-school-math" / "example_model_solutions.jsonl.gz"
    names = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    for row in lines(path):
        right = [row[name]["solution"] for name in names if row[name]["is_correct"]]
        wrong = [row[name]["solution"] for name in names if not row[name]["is_correct"]]
        for best, worst in itertools.product(right, wrong):
            yield pair(
                "grade-school-math", ask(row["question"]), best, worst, normalise(row["question"])
            )


def turns(text: str) -> list[tuple[str, str]]:
    """A Human/Assistant transcript as turns."""
    found: list[tuple[str, str]] = []
    for part in text.split("\n\nHuman: ")[1:]:
        human, *replies = part.split("\n\nAssistant:")
        found.append(("user", human.strip()))
        found.extend(("assistant", reply.strip()) for reply in replies)
    return found


def harmless(folder: Path) -> Iterator[Pair]:
    """Last replies of dialogues, the less harmful preferred; the group is the opening."""
    for row in lines(folder / "hh-rlhf" / "harmless-base-test.jsonl.gz"):
        chosen, rejected = turns(row["chosen"]), turns(row["rejected"])
        if chosen[:-1] != rejected[:-1] or chosen[-1][0] != "assistant":
            continue
        yield pair(
            "hh-harmless",
            tuple(chosen[:-1]),
            chosen[-1][1],
            rejected[-1][1],
            normalise(chosen[0][1]),
        )


def judged(folder: Path) -> Iterator[Pair]:
    """PandaLM's test set: pairs with a majority among three people."""
    with gzip.open(folder / "pandalm" / "testset-v1.json.gz", "rt") as file:
        rows = json.load(file)
    for row in rows:
        votes = [row[f"annotator{number}"] for number in (1, 2, 3)]
        label = next((side for side in (1, 2) if votes.count(side) >= 2), 0)
        if label:
            prompt = f"{row['instruction']}\n\n{row['input']}".strip()
            best, worst = str(row[f"response{label}"]), str(row[f"response{3 - label}"])
            yield pair("pandalm", ask(prompt), best, worst, normalise(row["instruction"]))


def experts(folder: Path) -> Iterator[Pair]:
    """Completions compared by people for the first Tulu models."""
    path = folder / "tulu1-human-eval" / "eval_annotations_tulu_1.xlsx.gz"
    book = openpyxl.load_workbook(io.BytesIO(gzip.decompress(path.read_bytes())), read_only=True)
    rows = book.worksheets[0].iter_rows(values_only=True)
    names = next(rows)
    for values in rows:
        row = dict(zip(names, values, strict=True))
        preference = str(row["preference"])
        if preference.startswith(("a-is", "b-is")):
            one, two = str(row["completion_a"] or ""), str(row["completion_b"] or "")
            best, worst = (one, two) if preference[0] == "a" else (two, one)
            yield pair(
                "tulu-human-eval",
                ask(str(row["prompt"])),
                best,
                worst,
                normalise(str(row["prompt"])),
            )


def refusals(folder: Path) -> Iterator[Pair]:
    """Compliance against refusal: compliance preferred for safe prompts, else refusal."""
    replies: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((folder / "xstest").glob("*.csv.gz")):
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                replies[row["prompt"], row["type"]][row["final_label"]].append(row["completion"])
    for (prompt, kind), labels in sorted(replies.items()):
        done, refused = labels["1_full_compliance"], labels["2_full_refusal"]
        bests, worsts = (refused, done) if kind.startswith("contrast_") else (done, refused)
        for best, worst in itertools.product(bests, worsts):
            yield pair("xstest", ask(prompt), best, worst, normalise(prompt))


def steps(folder: Path) -> Iterator[Pair]:
    """Next steps of one partial solution rated +1 and -1 by people."""
    found: dict[tuple[str, tuple[str, ...]], dict[float, list[str]]] = {}
    for path in sorted((folder / "prm800k-phase1").glob("*.parquet")):
        for row in parquet.read_table(path).to_pylist():
            key = row["instruction"], tuple(row["responses"])
            ratings = found.setdefault(key, defaultdict(list))
            if row["next_response"] and row["next_response"] not in ratings[row["rating"]]:
                ratings[row["rating"]].append(row["next_response"])
    for (problem, before), ratings in sorted(found.items()):
        text = "\n\n".join([problem, *before])
        for best, worst in itertools.product(ratings[1.0], ratings[-1.0]):
            yield pair("prm800k-steps", ask(text), best, worst, normalise(problem))


def judges(folder: Path) -> Iterator[Pair]:
    """Auto-J's pairs and the HHH questions: for evaluation only."""
    for row in lines(folder / "prometheus-eval" / "autoj-testdata_pairwise.jsonl.gz"):
        if row["label"] in (0, 1):
            answers = row["response 1"], row["response 2"]
            yield pair(
                "autoj-pairwise",
                ask(row["prompt"]),
                answers[row["label"]],
                answers[1 - row["label"]],
                normalise(row["prompt"]),
            )
    form = re.compile(
        r"###The instruction to evaluate:\n(.*)\n\n###Response to evaluate:\n(.*)"
        r"\n\n###Score Rubrics:",
        re.DOTALL,
    )
    with gzip.open(folder / "prometheus-eval" / "hhh_alignment_eval.json.gz", "rt") as file:
        rows = json.load(file)
    for row in rows:
        chosen = form.search(row["chosen_instruction"])
        rejected = form.search(row["rejected_instruction"])
        if chosen and rejected and chosen[1] == rejected[1]:
            yield pair(
                "hhh-alignment", ask(chosen[1]), chosen[2], rejected[2], normalise(chosen[1])
            )


READERS: tuple[Callable[[Path], Iterator[Pair]], ...] = (
    arena,
    arguments,
    tools,
    passages,
    sums,
    harmless,
    judged,
    experts,
    refusals,
    steps,
)


def read(
    folder: Path, readers: tuple[Callable[[Path], Iterator[Pair]], ...] = READERS
) -> list[Pair]:
    """All pairs of a data folder: no empty, equal or repeated answers."""
    seen: set[str] = set()
    found: list[Pair] = []
    for reader in readers:
        for item in reader(folder):
            usable = item.chosen and item.rejected and item.chosen != item.rejected
            if usable and item.id not in seen:
                seen.add(item.id)
                found.append(item)
    return found
