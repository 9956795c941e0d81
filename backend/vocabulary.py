"""The closed vocabulary of the starter pack: which words it knows, and how a prompt becomes tokens.

Synonyms, plurals and spelling variants are folded into one token each, so the small text encoder has a token for each
meaning rather than for each spelling. Token 0 pads, token 1 stands for "no text" (classifier-free guidance).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_TOKENS = 20
PADDING, NO_TEXT = 0, 1

KIND_WORDS = {
    "mushroom": "toadstool fungus fungi champignon",
    "mug": "cup teacup",
    "chair": "",
    "stool": "barstool footstool",
    "table": "desk",
    "lamp": "lampshade lantern",
    "tree": "pine fir spruce conifer oak",
    "rocket": "spaceship spacecraft missile rocketship",
    "barrel": "cask keg",
    "snowman": "snowmen",
    "cactus": "cacti succulent",
    "donut": "doughnut bagel",
    "sword": "dagger longsword",
    "house": "home cottage hut cabin building",
    "bottle": "flask",
    "hammer": "mallet sledgehammer",
    "car": "automobile vehicle",
    "boat": "ship sailboat sailing",
    "sofa": "couch settee loveseat",
    "icecream": "cornet gelato",
    "robot": "android droid bot",
    "cake": "birthday gateau",
    "candle": "candlestick taper",
    "pumpkin": "gourd squash",
}
COLOR_WORDS = {
    "red": "crimson scarlet ruby cherry",
    "orange": "tangerine",
    "yellow": "lemon",
    "green": "emerald olive lime",
    "teal": "turquoise cyan aqua",
    "blue": "navy azure cobalt",
    "purple": "violet lilac lavender",
    "pink": "magenta rose fuchsia",
    "brown": "chocolate chestnut",
    "beige": "cream tan sand ivory",
    "black": "ebony jet",
    "gray": "grey silver steel metal metallic iron",
    "white": "snowy",
    "gold": "golden brass",
}
MODIFIER_WORDS = {"dark": "deep", "light": "pale bright pastel"}
PATTERN_WORDS = {
    "striped": "stripes stripe stripy",
    "spotted": "spots spot dotted dots dot polka speckled",
    "checkered": "checked checker chequered checks",
    "wooden": "wood timber oaken",
    "brick": "bricks masonry stone",
}
SHAPE_WORDS = {
    "tall": "high long",
    "short": "low squat small",
    "wide": "fat thick chubby big",
    "thin": "slim slender narrow",
}
PART_WORDS = {
    "cap": "head", "stem": "stalk trunk", "handle": "grip hilt", "seat": "cushion", "back": "backrest",
    "leg": "legs feet", "top": "tabletop", "base": "foot plate", "shade": "", "pole": "post mast",
    "leaf": "leaves foliage crown needles", "nose": "tip cone", "fin": "fins wing wings",
    "window": "windows porthole", "hoop": "hoops ring rings band", "hat": "", "scarf": "", "pot": "flowerpot planter",
    "flower": "blossom", "icing": "frosting glaze", "sprinkle": "sprinkles", "guard": "crossguard", "roof": "",
    "door": "", "chimney": "", "label": "", "wheel": "wheels tire tires tyres", "blade": "", "sail": "sails",
    "hull": "", "arm": "arms armrest", "scoop": "scoops ball", "eye": "eyes", "flame": "fire",
    "holder": "dish saucer", "inside": "interior",
}  # fmt: skip
JOINING_WORDS = {"with": "has having in on", "and": ""}
SILENT_WORDS = set(
    "a an the of its it is very nice cute simple single one some toy model 3d object asset picture photo image render "
    "rendering plain solid style stylized cartoon realistic low poly please my that this for coloured colored color "
    "colour made from to by at pair little".split()
)
_PHRASES = {
    "ice cream": "icecream", "ice-cream": "icecream", "pine tree": "tree", "fir tree": "tree", "polka dot": "spotted",
    "space ship": "rocket", "snow man": "snowman", "dough nut": "donut", "flower pot": "pot", "sail boat": "boat",
    "birthday cake": "cake", "table lamp": "lamp", "desk lamp": "lamp", "floor lamp": "lamp", "light bulb": "lamp",
    "tree trunk": "stem", "log cabin": "house", "sailing boat": "boat", "metal ring": "hoop",
}  # fmt: skip
_GROUPS = (KIND_WORDS, COLOR_WORDS, MODIFIER_WORDS, PATTERN_WORDS, SHAPE_WORDS, PART_WORDS, JOINING_WORDS)


def _meanings() -> dict[str, str]:
    meanings = {token: token for group in _GROUPS for token in group}
    for group in _GROUPS:
        for token, synonyms in group.items():
            for word in synonyms.split():
                meanings.setdefault(word, token)
    return meanings


_MEANINGS = _meanings()
TOKENS: tuple[str, ...] = ("<pad>", "<no text>", *dict.fromkeys(token for group in _GROUPS for token in group))


@dataclass(frozen=True)
class Encoding:
    """tokens: MAX_TOKENS numbers, padded with 0; unknown: the words that mean nothing to the model; truncated: whether
    words at the end did not fit."""

    tokens: list[int]
    unknown: list[str]
    truncated: bool

    @property
    def known(self) -> int:
        return sum(token > NO_TEXT for token in self.tokens)


class Vocabulary:
    """Words to token numbers. `tokens` comes from a checkpoint, so that a newer word list never shifts its numbers."""

    def __init__(self, tokens: tuple[str, ...] | list[str] = TOKENS) -> None:
        self.tokens = tuple(tokens)
        self._numbers = {token: number for number, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def _meaning(self, word: str) -> str | None:
        stems = [word]
        if word.endswith("s"):
            stems.append(word[:-1])
        if word.endswith("es"):
            stems.append(word[:-2])
        for stem in stems:
            meaning = _MEANINGS.get(stem)
            if meaning in self._numbers:
                return meaning
        return None

    def encode(self, text: str) -> Encoding:
        """The tokens of a prompt; never raises. Unknown words are left out and reported once each."""
        text = text.lower()
        for phrase, token in _PHRASES.items():
            text = re.sub(rf"\b{phrase}(s?)\b", token, text)
        numbers: list[int] = []
        unknown: list[str] = []
        for word in re.findall(r"[^\W_]+", text):
            meaning = self._meaning(word)
            if meaning is not None:
                numbers.append(self._numbers[meaning])
            elif word not in SILENT_WORDS and word not in unknown:
                unknown.append(word)
        truncated = len(numbers) > MAX_TOKENS
        numbers = numbers[:MAX_TOKENS]
        return Encoding(numbers + [PADDING] * (MAX_TOKENS - len(numbers)), unknown, truncated)

    def no_text(self) -> list[int]:
        """The tokens that stand for the absence of a prompt."""
        return [NO_TEXT] + [PADDING] * (MAX_TOKENS - 1)

    def kinds(self, tokens: list[int]) -> list[str]:
        """The kinds of object named by an encoding."""
        return [self.tokens[token] for token in tokens if self.tokens[token] in KIND_WORDS]
