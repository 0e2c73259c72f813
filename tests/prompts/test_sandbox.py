"""What chat templates may not do in one operation, and what they may as before."""

import pytest
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from assay.prompts import jinja_source, sandbox


@pytest.fixture(autouse=True)
def _tight():
    sandbox.tighten()


def render(source):
    """Return what a template says."""
    return ImmutableSandboxedEnvironment().from_string(source).render()


@pytest.mark.parametrize(
    "source",
    [
        "{{ 7 ** (10 ** 8) }}",
        "{{ (2 ** 4000) * (2 ** 4000) }}",
        "{{ 'ab' * 10 ** 9 }}",
        "{{ 10 ** 9 * ['a'] }}",
        "{{ ('a', 'b') * 1000000 }}",
        "{{ range(99999) | length }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{% set n = 7 %}{% for i in range(99) %}{{ n ** 9999 }}{% endfor %}",
    ],
)
def test_what_becomes_too_large_is_refused_before_it_is_computed(source):
    """Nor is it computed while the template is compiled."""
    with pytest.raises((TemplateError, OverflowError)):
        render(source)


def test_what_is_constant_is_not_computed_while_names_are_looked_up():
    """As a start does with every template, before it renders one."""
    source = "{{ 7 ** (10 ** 8) }}{{ 'a' * 10 ** 12 }}{{ messages }}"

    assert jinja_source.variables(source) == {"messages"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ 7 ** 2 }} {{ 2 ** -1 }} {{ 1 ** (10 ** 9) }} {{ 2.0 ** 3 }}", "49 0.5 1 8.0"),
        ("{{ 3 * 4 }} {{ 2.5 * 2 }} {{ '-' * 5 }} {{ [1] * 2 }}", "12 5.0 ----- [1, 1]"),
        ("{{ range(9999) | length }} {{ 7 % 4 }} {{ '%05.1f|%s' % (2.5, 'a') }}", "9999 3 002.5|a"),
        ("{{ '-' * -1 }}{{ true * 3 }}", "3"),
    ],
)
def test_what_templates_do_is_as_before(source, expected):
    """Numbers, rows of signs, formats."""
    assert render(source) == expected
