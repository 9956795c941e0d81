"""What a closed vocabulary makes of a prompt, told to the user before anything is generated."""

from __future__ import annotations

from backend.errors import BadInput
from backend.vocabulary import KIND_WORDS, Vocabulary


def known_things(vocabulary: Vocabulary) -> str:
    """The kinds of thing that models with this vocabulary know, as a user would write them, with commas."""
    return ", ".join(kind.replace("icecream", "ice cream") for kind in KIND_WORDS if kind in vocabulary.tokens)


def check_prompt(prompt: str, vocabulary: Vocabulary | None = None, pictured: bool = False) -> list[str]:
    """Warnings about words that are ignored. Raises BadInput where not one word of the prompt is known, unless it comes
    with a picture."""
    vocabulary = vocabulary or Vocabulary()
    encoding = vocabulary.encode(prompt)
    kinds = known_things(vocabulary)
    if encoding.known == 0 and pictured:
        return ["The starter models know no word of this prompt: they go by the picture alone."]
    if encoding.known == 0:
        raise BadInput(
            "The starter models know no word of this prompt.",
            f"Name one of the things they know, in English: {kinds}.",
        )
    warnings = []
    if encoding.unknown:
        words = ", ".join(f"'{word[:40]}'" for word in encoding.unknown[:8])
        more = f" and {len(encoding.unknown) - 8} more" if len(encoding.unknown) > 8 else ""
        warnings.append(f"The starter models do not know {words}{more}: ignored.")
    if encoding.truncated:
        warnings.append("The prompt is longer than the starter models can take in: its end was ignored.")
    if not vocabulary.kinds(encoding.tokens) and not pictured:
        warnings.append(f"The prompt names no thing that the starter models know; they know: {kinds}.")
    return warnings
