"""Write card.toml from evaluation.json and print the tables of the README."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SOURCES = {
    "hh-harmless": (
        "Dialogue replies, the less harmful one chosen by people",
        "anthropics/hh-rlhf : harmless-base/test",
        "MIT",
    ),
    "grade-school-math": (
        "Right and wrong solutions of school problems, verified",
        "openai/grade-school-math : example_model_solutions",
        "MIT",
    ),
    "themis-calculator": (
        "Solutions of school problems, wrong ones constructed",
        "ernie-research/Tool-Augmented-Reward-Model : data/calculator",
        "MIT",
    ),
    "themis-code": (
        "Short programs, checked by running them",
        "ernie-research/Tool-Augmented-Reward-Model : data/code",
        "MIT",
    ),
    "themis-hh_rlhf": (
        "Short dialogue replies, compared by people",
        "ernie-research/Tool-Augmented-Reward-Model : data/hh_rlhf",
        "MIT",
    ),
    "xstest": (
        "Compliance or refusal, labelled by people",
        "paul-rottger/exaggerated-safety : model_completions",
        "CC-BY-4.0",
    ),
}
HELD_OUT = ("held-out", "held-out, length-balanced")
SUMMARY = (
    "Three tiny reward models trained from scratch: a demonstration that the server can "
    "run without a download."
)
INTENDED = (
    "Trying out the server, its tests and its tutorials without a download: "
    "real scores from real weights, in milliseconds, on a processor."
)
LIMITATIONS = (
    "A demonstration: three decoders of under three million parameters, trained from "
    "scratch for minutes on English pairs. Near chance away from the sources it was "
    "trained on; it does not check facts, sums or programs. Do not train a policy on "
    "it or rank models by it."
)


def quote(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False)


def evaluation(name: str, row: dict, members: list[str]) -> list[str]:
    """One [[evaluation]] of the card."""
    inline = ", ".join(f"{member} = {row[member]['accuracy']}" for member in members)
    return [
        "[[evaluation]]",
        f"name = {quote(name)}",
        f"pairs = {row['pairs']}",
        f"accuracy = {row['ensemble']['accuracy']}",
        f"interval = {row['ensemble']['interval']}",
        f"longer_wins = {row['longer_wins']['accuracy']}",
        f"bag_of_words = {row['bag_of_words']['accuracy']}",
        f"members = {{ {inline} }}",
        "",
    ]


def card(result: dict) -> str:
    """The whole card."""
    members = [name for name in result["statistics"] if name != "ensemble"]
    lines = [
        f"summary = {quote(SUMMARY)}",
        'license = "Apache-2.0"',
        'languages = ["en"]',
        f"intended_use = {quote(INTENDED)}",
        f"limitations = {quote(LIMITATIONS)}",
        "",
        "[ensemble]",
        f"members = {json.dumps(members)}",
        "",
        "[limits]",
        f"max_tokens = {result['max_tokens']}",
        "",
        "# Raw rewards of the held-out responses; the ensemble is the mean of its members.",
        "[statistics]",
    ]
    lines += [f"{key} = {value}" for key, value in result["statistics"]["ensemble"].items()]
    for name in members:
        lines += ["", f"[statistics.members.{name}]"]
        lines += [f"{key} = {value}" for key, value in result["statistics"][name].items()]
    lines.append("")
    for name, pairs in result["training_pairs"].items():
        title, source, licence = SOURCES[name]
        lines += [
            "[[data]]",
            f"name = {quote(name + ': ' + title)}",
            f"source = {quote(source)}",
            f"license = {quote(licence)}",
            f"pairs = {pairs}",
            "",
        ]
    for name in HELD_OUT:
        lines += evaluation(name, result[name], members)
    for name, row in result["out_of_distribution"].items():
        lines += evaluation(f"out of distribution: {name}", row, members)
    for row in result["uncertainty"]["agreement"]:
        lines += ["[[agreement]]", *(f"{key} = {value}" for key, value in row.items()), ""]
    lines += ["[length]", f"spearman = {result['length']['spearman']['ensemble']}"]
    return "\n".join(lines) + "\n"


def cell(value: dict) -> str:
    """An accuracy with its interval."""
    low, high = value["interval"]
    return f"{value['accuracy']:.3f} ({low:.3f}-{high:.3f})"


def accuracies(rows: dict[str, dict], methods: list[str]) -> str:
    """A table with a row for each data set and a column for each method."""
    lines = [
        "| pairs from | n | prompts | " + " | ".join(methods).replace("_", " ") + " |",
        "|---" * (len(methods) + 3) + "|",
    ]
    for name, row in rows.items():
        cells = [cell(row[method]) for method in methods]
        lines.append(f"| {name} | {row['pairs']} | {row['prompts']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def certainty(title: str, rows: list[dict], label: str) -> str:
    """A table of accuracy by certainty."""
    lines = [f"| {title} | n | {label} |", "|---|---|---|"]
    for row in rows:
        name = (
            f"{row['agreement']:.2f}"
            if "agreement" in row
            else (f"{row['from']:g} to {row['to']:g}" if row["to"] else f"{row['from']:g} or more")
        )
        lines.append(f"| {name} | {row['pairs']} | {cell(row)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the card next to evaluation.json; print the tables of the README."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder of the members")
    options = parser.parse_args()
    result = json.loads((options.models / "evaluation.json").read_text(encoding="utf-8"))
    (options.models / "card.toml").write_text(card(result), encoding="utf-8")
    members = [name for name in result["statistics"] if name != "ensemble"]
    methods = [*members, "ensemble", "longer_wins", "bag_of_words"]
    short = ["ensemble", "longer_wins", "bag_of_words"]
    print(accuracies({name: result[name] for name in HELD_OUT}, methods))
    print(accuracies(result["per_source"], short))
    print(accuracies(result["per_source_length_balanced"], short))
    print(accuracies(result["out_of_distribution"], short))
    for part in ("uncertainty", "uncertainty_length_balanced"):
        print(part)
        print(certainty("agreement", result[part]["agreement"], "accuracy"))
        print(certainty("margin / deviation", result[part]["margin_over_std"], "accuracy"))
    print(json.dumps(result["length"], indent=1))


if __name__ == "__main__":
    main()
