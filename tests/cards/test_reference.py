"""The documents about cards say what the schema, the catalogue and the layouts say."""

import re
import tomllib
from pathlib import Path

import pytest

from assay.cards import mechanism, reference
from assay.cards.card import Card
from tests.families import catalogue

DOCS = Path(__file__).parents[2] / "docs"
WRITTEN = {
    "cards.md": (reference.markdown, "python -m assay.cards.reference docs/cards.md"),
    "families.md": (catalogue.markdown, "python -m tests.families.catalogue"),
}


def tables(base=mechanism.Table):
    """Yield every table class of the schema."""
    for table in base.__subclasses__():
        if table.__module__.startswith("assay.cards."):
            yield table
            yield from tables(table)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_generated_is_up_to_date(name):
    """A document's generated part is what its generator gives."""
    generated, command = WRITTEN[name]
    text = (DOCS / name).read_text(encoding="utf-8")

    assert reference.filled(text, generated()) == text, f"docs/{name} is old; run: {command}"


def test_every_table_and_field_is_described():
    """Each with its row; nothing of the schema is left out."""
    text = reference.markdown()

    for table in tables():
        for name in table.model_fields:
            assert f"| `{name}` |" in text
        assert " ".join((table.__doc__ or "?").split()) in " ".join(text.split())


@pytest.mark.parametrize(
    "line",
    [
        "### `[read]`, `[heads.NAME.read]`",
        "### `[[golden]]`",
        "| `id` | text | required |",
        '| `eos` | `"keep"` or `"ensure"` or `"force"` | `"keep"` |',
        "| `max_tokens` | whole number, above 0 | none |",
        "| `places` | list of whole number, at least 1 | required |",
        "| `layers` | list of layer, at least 1 | required |",
        "| `weights` | table by name: number | none |",
        "| `swap` | true or false | `true` |",
    ],
)
def test_types_bounds_and_defaults_are_in_words(line):
    """As a card's author would write them."""
    assert line in reference.markdown()


def test_only_what_stands_between_the_marks_is_replaced():
    """A document's own words stay."""
    document = f"before {reference.BEGIN} old {reference.END} after"

    filled = reference.filled(document, "new\n")

    assert filled == f"before {reference.BEGIN}\n\nnew\n\n{reference.END} after"
    assert reference.filled(filled, "new\n") == filled


def test_the_example_is_a_card():
    """It can be copied as it stands."""
    (example,) = re.findall(
        r"```toml\n(.*?)```", (DOCS / "cards.md").read_text(encoding="utf-8"), re.DOTALL
    )

    card = Card.model_validate(tomllib.loads(example))

    assert {"family", "source", "template", "heads", "score", "golden"} <= card.model_fields_set


def test_every_card_of_the_catalogue_stands_in_the_table_once():
    """With what it was checked by."""
    names = re.findall(r"^\| [^|]* \| `([^`]*)` \|", catalogue.markdown(), re.MULTILINE)

    assert len(names) == len(set(names)) == len(catalogue._paths())
    assert "| ArmoRM | `armorm-llama3-8b-v0.1` |" in catalogue.markdown()
