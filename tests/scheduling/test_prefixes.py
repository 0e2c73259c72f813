from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from assay.scheduling.prefixes import Prefixes, shared
from assay.worker_protocol import BLOCK_TOKENS
from tests.scheduling.texts import IDS, STRETCHES, ids, in_common, response, spell

TEXTS = st.lists(IDS, max_size=20)
SCOPES = st.lists(st.sampled_from("ab"), min_size=20, max_size=20)
ONE_SCOPE = ("",) * 20


def tree(texts, scopes=ONE_SCOPE):
    """Return the tree of some texts, each known by its place."""
    prefixes = Prefixes()
    for place, text in enumerate(texts):
        prefixes.add(place, text, scopes[place])
    return prefixes


def nodes(prefixes):
    """Return all nodes but the roots."""
    found = [child for root in prefixes.roots.values() for child in root.children.values()]
    for node in found:
        found.extend(node.children.values())
    return found


def shapes(prefixes):
    """Return the trees of all scopes as values that can be compared."""
    return {scope: shape(root) for scope, root in prefixes.roots.items()}


def shape(node):
    """Return a node's run, items and children as values that can be compared."""
    run = tuple(node.ids[node.begin : node.end].tolist())
    return run, set(node.items), {key: shape(child) for key, child in node.children.items()}


@given(TEXTS)
def test_the_runs_above_an_item_spell_its_tokens(texts):
    """From the root down, runs follow one another to the item's last token."""
    prefixes = tree(texts)
    for place, text in enumerate(texts):
        path = list(prefixes.above(place))[::-1]
        runs = [node.ids[node.begin : node.end] for node in path]
        assert np.concatenate(runs).tolist() == text.tolist()
        assert [node.begin for node in path] == [0, *(node.end for node in path[:-1])]


@given(TEXTS)
def test_siblings_never_share_a_run(texts):
    """Two children of a node have fewer than `BLOCK_TOKENS` tokens in common."""
    prefixes = tree(texts)
    for node in [*prefixes.roots.values(), *nodes(prefixes)]:
        runs = [child.ids[child.begin : child.end] for child in node.children.values()]
        assert all(in_common(*pair) < BLOCK_TOKENS for pair in combinations(runs, 2))


@given(TEXTS)
def test_a_run_that_is_shared_is_worth_it(texts):
    """A run that goes on in others has `BLOCK_TOKENS` at least."""
    for node in nodes(tree(texts)):
        assert not node.children or node.end - node.begin >= BLOCK_TOKENS


@given(TEXTS)
def test_tokens_count_each_run_once(texts):
    """`tokens` is the sum of all runs."""
    prefixes = tree(texts)
    assert prefixes.tokens == sum(node.end - node.begin for node in nodes(prefixes))


@given(TEXTS, SCOPES, st.data())
def test_the_shape_is_that_of_whoever_is_there(texts, scopes, data):
    """However items came and whoever left, the tree is that of those who remain."""
    prefixes = tree(texts, scopes)
    places = data.draw(st.permutations(range(len(texts))))
    stay = places[: len(places) // 2]
    for place in places[len(stay) :]:
        prefixes.remove(place)
    others = Prefixes()
    for place in stay:
        others.add(place, texts[place], scopes[place])
    assert shapes(prefixes) == shapes(others)
    assert (prefixes.tokens, len(prefixes)) == (others.tokens, len(stay))


@given(TEXTS, SCOPES)
def test_each_scope_has_the_tree_of_its_own_items(texts, scopes):
    """Whatever the others' begin with, as if they weren't there."""
    found = tree(texts, scopes)
    assert sum(len(list(root.below())) for root in found.roots.values()) == len(texts)
    for scope in set(scopes[: len(texts)]):
        alone = Prefixes()
        for place, text in enumerate(texts):
            if scopes[place] == scope:
                alone.add(place, text, scope)
        assert shapes(found)[scope] == shapes(alone)[scope]


@given(TEXTS, SCOPES, st.randoms())
def test_an_emptied_tree_holds_nothing(texts, scopes, random):
    """Whoever leaves takes the runs along that were there for them, and the last the scope."""
    prefixes = tree(texts, scopes)
    places = list(range(len(texts)))
    random.shuffle(places)
    for place in places:
        prefixes.remove(place)
    assert prefixes.roots == {}
    assert (prefixes.tokens, len(prefixes)) == (0, 0)


@given(TEXTS)
def test_items_below_a_node_are_those_with_its_tokens(texts):
    """`below` and `is_below` agree with the slow way; runs that end between splits go nowhere."""
    prefixes = tree(texts)
    for node in nodes(prefixes):
        below = list(node.below())
        expected = {
            place
            for place, text in enumerate(texts)
            if in_common(text, node.ids[: node.end]) == node.end
            and (len(text) == node.end or node.end % BLOCK_TOKENS == 0)
        }
        assert len(below) == len(set(below))
        assert set(below) == expected
        assert {place for place in range(len(texts)) if prefixes.is_below(place, node)} == expected


@given(TEXTS)
def test_circles_around_an_item_name_everyone_once(texts):
    """Each node above gives those whom the one before it didn't."""
    prefixes = tree(texts)
    for place in range(len(texts)):
        inner, named = None, []
        for node in prefixes.above(place):
            named += node.below(besides=inner)
            inner = node
        assert sorted(named) == sorted(inner.below())


@given(STRETCHES, STRETCHES)
def test_what_two_runs_share(one, other):
    """The length of the common beginning, also where one is the beginning of the other."""
    assert shared(spell(one), spell(other)) == in_common(spell(one), spell(other))


def test_equal_items_end_at_one_node():
    """What is there twice is one run."""
    prefixes = tree([ids(40), ids(40)])
    assert [set(node.items) for node in nodes(prefixes)] == [{0, 1}]


def test_an_item_may_end_where_others_go_on():
    """A prefix of another item is a node above it."""
    prefixes = tree([response(ids(32), 7), ids(32)])
    (upper,) = prefixes.roots[""].children.values()
    assert set(upper.items) == {1}
    assert [set(child.items) for child in upper.children.values()] == [{0}]


def test_a_short_common_beginning_is_left_in_the_items():
    """Fewer than `BLOCK_TOKENS` tokens are no run of their own."""
    prefixes = tree([response(ids(BLOCK_TOKENS - 1), token) for token in (7, 8)])
    assert len(prefixes.roots[""].children) == 2


def test_an_unknown_item_is_below_nothing():
    """Who isn't in the tree has none of its tokens."""
    prefixes = tree([ids(20)])
    assert not prefixes.is_below("nobody", next(prefixes.above(0)))
