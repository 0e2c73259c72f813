import re

import pytest

from assay import errors
from assay.errors import AssayError, RequestError, ServiceError, StartupError

# One line of the drawn tree: "│   ├── UnknownTarget         404 no such model or ensemble".
DRAWN = re.compile(r"^(?P<indent>[│ ]*)[├└]── (?P<name>\w+) +(?P<status>\d{3} )?(?P<text>.+)$")


def leaves(root=AssayError):
    """Return the classes of the tree that nothing is derived from."""
    children = root.__subclasses__()
    return [leaf for child in children for leaf in leaves(child)] if children else [root]


def drawn():
    """Return the docstring's tree: for each name, its depth and status."""
    lines = (DRAWN.match(line) for line in errors.__doc__.splitlines())
    return {
        line["name"]: (len(line["indent"]) // 4, line["status"] and int(line["status"]))
        for line in lines
        if line
    }


def drawn_parents():
    """Return the docstring's tree: for each name, the name above it."""
    parents, path = {}, ["AssayError"]
    for name, (depth, _) in drawn().items():
        del path[depth + 1 :]
        parents[name] = path[-1]
        path.append(name)
    return parents


def test_the_drawn_tree_is_the_tree():
    """Every class is drawn below its base, and nothing else is drawn."""
    pending, parents = [AssayError], {}
    while pending:
        base = pending.pop()
        for child in base.__subclasses__():
            parents[child.__name__] = base.__name__
            pending.append(child)
    assert drawn_parents() == parents


@pytest.mark.parametrize("leaf", [*leaves(RequestError), *leaves(ServiceError)])
def test_each_answers_status_is_drawn(leaf):
    """The table that callers rely on states each leaf's HTTP status."""
    assert drawn()[leaf.__name__][1] == leaf.status


@pytest.mark.parametrize("leaf", leaves(StartupError))
def test_a_failed_start_has_no_status(leaf):
    """What stops the start is never an answer; the process exits instead."""
    assert drawn()[leaf.__name__][1] is None


def test_codes_are_unique():
    """A code is one cause, inner nodes of the tree included."""
    kinds = [AssayError, RequestError, ServiceError, StartupError, *leaves()]
    codes = [kind.code for kind in kinds]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("leaf", leaves())
def test_each_leaf_has_a_code_of_its_own(leaf):
    """A code is written on the leaf, in snake case, and not inherited."""
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", vars(leaf)["code"])


@pytest.mark.parametrize("leaf", leaves(RequestError))
def test_the_callers_errors_are_not_worth_a_retry(leaf):
    """A request that was wrong stays wrong: 4xx, not retryable."""
    assert (leaf.status // 100, leaf.retryable) == (4, False)


@pytest.mark.parametrize("leaf", leaves(ServiceError))
def test_the_services_errors_are_5xx_and_retryable_where_time_helps(leaf):
    """What passes with time says so; a defect, a bad item or an alien question doesn't."""
    assert leaf.status in {500, 501, 503, 504}
    assert leaf.retryable is (leaf.status in {503, 504})


def test_an_error_carries_what_its_answer_needs():
    """Message, the field it is about, and when to come back."""
    error = errors.Overloaded("full", param="inputs", retry_after_s=2.5)
    assert (str(error), error.message, error.param, error.retry_after_s) == (
        "full",
        "full",
        "inputs",
        2.5,
    )


def test_advice_of_a_native_field_is_given_where_that_field_is():
    """Foreign routes say what is wrong, native ones also which field mends it."""
    error = errors.ItemTooLong("it is too long; shorten it", advice=', or send "truncation"')

    assert error.message == "it is too long; shorten it"
    assert error.advised().message == 'it is too long; shorten it, or send "truncation"'
    assert error.advised().advised().message == error.advised().message
