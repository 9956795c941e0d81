"""The closed vocabulary: synonyms, plurals, phrases, unknown words."""

from __future__ import annotations

import pytest

from backend.vocabulary import MAX_TOKENS, TOKENS, Vocabulary

VOCABULARY = Vocabulary()


def words(text: str) -> list[str]:
    return [TOKENS[number] for number in VOCABULARY.encode(text).tokens if number]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red mushroom!", ["red", "mushroom"]),
        ("two crimson toadstools", ["red", "mushroom"]),
        ("a GREY couch", ["gray", "sofa"]),
        ("an ice cream with a golden cone", ["icecream", "with", "gold", "nose"]),
        ("ice creams", ["icecream"]),
        ("a polka dot mug", ["spotted", "mug"]),
        ("light blue striped cup", ["light", "blue", "striped", "mug"]),
        ("a red-and-white rocket", ["red", "and", "white", "rocket"]),
    ],
)
def test_meanings(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_unknown_words_are_named_once_and_left_out() -> None:
    encoding = VOCABULARY.encode("a red dragon eating a dragon, please")
    assert encoding.unknown == ["dragon", "eating"]
    assert encoding.known == 1


def test_numbers_two_and_a_are_not_meant() -> None:
    assert VOCABULARY.encode("").known == 0
    assert VOCABULARY.encode("🙂 ...").known == 0


def test_long_prompts_are_cut_and_say_so() -> None:
    encoding = VOCABULARY.encode("red " * 50)
    assert encoding.truncated
    assert len(encoding.tokens) == MAX_TOKENS


def test_every_token_is_found_by_its_own_name() -> None:
    for token in TOKENS[2:]:
        assert words(token) == [token]


def test_a_checkpoints_token_list_decides_the_numbers() -> None:
    older = Vocabulary(TOKENS[:20])
    encoding = older.encode("a mug with a chimney")
    assert older.tokens[encoding.tokens[0]] == "mug"
    assert "chimney" in encoding.unknown


def test_in_and_on_join_as_with_does() -> None:
    vocabulary = Vocabulary()
    spoken = [vocabulary.encode(f"a green cactus {word} an orange pot") for word in ("with", "in", "on")]
    assert spoken[0] == spoken[1] == spoken[2]
