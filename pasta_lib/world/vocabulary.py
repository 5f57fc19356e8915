"""The words of the miniature world: what can be drawn, and how English may say it.

Everything here is a choice of ours. Subjects are emoji (Noto Color Emoji, SIL OFL); each value of
an attribute has one canonical name, used in code and tables, and the wordings a caption may use.
The first wording is the plain one. Order matters: the position of a value is its integer code.
"""

from typing import NamedTuple


class Subject(NamedTuple):
    """One thing that can be drawn: its emoji, category, colour by nature, and wordings."""

    emoji: str
    category: str
    own_colour: str | None  # the tint it already has; that tint then means "natural"
    wordings: tuple[tuple[str, str], ...]  # (singular, plural)


def _words(*pairs: str) -> tuple[tuple[str, str], ...]:
    """'fox/foxes' → ('fox', 'foxes'); 'cat' → ('cat', 'cats')."""
    split = (pair.split("/") for pair in pairs)
    return tuple((p[0], p[1] if len(p) > 1 else p[0] + "s") for p in split)


CATEGORIES = (
    "animals", "food", "scenery", "vehicles", "plants", "celebrations", "moods", "shapes",
)  # fmt: skip

SUBJECTS: dict[str, Subject] = {
    "cat": Subject("🐱", "animals", None, _words("cat", "kitten")),
    "fox": Subject("🦊", "animals", None, _words("fox/foxes")),
    "frog": Subject("🐸", "animals", "green", _words("frog")),
    "owl": Subject("🦉", "animals", None, _words("owl")),
    "elephant": Subject("🐘", "animals", None, _words("elephant")),
    "fish": Subject("🐠", "animals", None, _words("fish/fish", "tropical fish/tropical fish")),
    "butterfly": Subject("🦋", "animals", None, _words("butterfly/butterflies")),
    "turtle": Subject("🐢", "animals", "green", _words("turtle", "tortoise")),
    "pizza": Subject("🍕", "food", None, _words("pizza slice", "slice of pizza/slices of pizza")),
    "burger": Subject("🍔", "food", None, _words("burger", "hamburger")),
    "ice cream": Subject("🍦", "food", None, _words("ice cream", "ice cream cone")),
    "doughnut": Subject("🍩", "food", None, _words("doughnut", "donut")),
    "watermelon": Subject(
        "🍉", "food", None, _words("watermelon", "slice of watermelon/slices of watermelon")
    ),
    "banana": Subject("🍌", "food", None, _words("banana")),
    "carrot": Subject("🥕", "food", None, _words("carrot")),
    "coffee": Subject("☕", "food", None, _words("cup of coffee/cups of coffee", "coffee cup")),
    "mountain": Subject("🏔", "scenery", None, _words("mountain", "snowy peak")),
    "island": Subject("🏝", "scenery", None, _words("island", "desert island")),
    "volcano": Subject("🌋", "scenery", None, _words("volcano/volcanoes")),
    "castle": Subject("🏰", "scenery", None, _words("castle")),
    "house": Subject("🏡", "scenery", None, _words("house", "cottage")),
    "tent": Subject("⛺", "scenery", None, _words("tent")),
    "rainbow": Subject("🌈", "scenery", None, _words("rainbow")),
    "wave": Subject("🌊", "scenery", "blue", _words("wave", "ocean wave")),
    "car": Subject("🚗", "vehicles", "red", _words("car", "automobile")),
    "bicycle": Subject("🚲", "vehicles", None, _words("bicycle", "bike")),
    "rocket": Subject("🚀", "vehicles", None, _words("rocket", "spaceship")),
    "sailboat": Subject("⛵", "vehicles", None, _words("sailboat", "sailing boat")),
    "train": Subject("🚂", "vehicles", None, _words("train", "steam train")),
    "helicopter": Subject("🚁", "vehicles", None, _words("helicopter")),
    "aeroplane": Subject("🛩", "vehicles", None, _words("aeroplane", "airplane")),
    "tractor": Subject("🚜", "vehicles", None, _words("tractor")),
    "tree": Subject("🌳", "plants", "green", _words("tree", "leafy tree")),
    "pine": Subject("🌲", "plants", "green", _words("pine tree", "fir tree")),
    "cactus": Subject("🌵", "plants", "green", _words("cactus/cacti", "cactus/cactuses")),
    "sunflower": Subject("🌻", "plants", None, _words("sunflower")),
    "tulip": Subject("🌷", "plants", None, _words("tulip")),
    "mushroom": Subject("🍄", "plants", None, _words("mushroom", "toadstool")),
    "maple leaf": Subject("🍁", "plants", "red", _words("maple leaf/maple leaves")),
    "clover": Subject("🍀", "plants", "green", _words("clover", "four-leaf clover")),
    "balloon": Subject("🎈", "celebrations", "red", _words("balloon", "party balloon")),
    "gift": Subject("🎁", "celebrations", None, _words("gift", "present")),
    "birthday cake": Subject("🎂", "celebrations", None, _words("birthday cake", "cake")),
    "party popper": Subject("🎉", "celebrations", None, _words("party popper", "confetti popper")),
    "jack-o'-lantern": Subject(
        "🎃", "celebrations", None, _words("jack-o'-lantern", "carved pumpkin")
    ),
    "trophy": Subject("🏆", "celebrations", None, _words("trophy/trophies", "golden cup")),
    "crown": Subject("👑", "celebrations", None, _words("crown")),
    "bell": Subject("🔔", "celebrations", None, _words("bell")),
    "smiling face": Subject("😀", "moods", None, _words("smiling face", "happy face")),
    "crying face": Subject("😭", "moods", None, _words("crying face", "sad face")),
    "angry face": Subject("😡", "moods", "red", _words("angry face", "furious face")),
    "loving face": Subject(
        "😍", "moods", None, _words("loving face", "face with heart eyes/faces with heart eyes")
    ),
    "cool face": Subject(
        "😎", "moods", None, _words("cool face", "face with sunglasses/faces with sunglasses")
    ),
    "frightened face": Subject("😱", "moods", None, _words("frightened face", "scared face")),
    "dancer": Subject("💃", "moods", None, _words("dancer", "dancing woman/dancing women")),
    "meditating person": Subject(
        "🧘",
        "moods",
        None,
        _words("meditating person/meditating people", "person doing yoga/people doing yoga"),
    ),
    "circle": Subject("🔴", "shapes", "red", _words("circle", "disc")),
    "square": Subject("🟦", "shapes", "blue", _words("square")),
    "triangle": Subject("🔺", "shapes", "red", _words("triangle")),
    "diamond": Subject("🔶", "shapes", None, _words("diamond", "rhombus/rhombuses")),
    "star": Subject("⭐", "shapes", None, _words("star")),
    "heart": Subject("❤", "shapes", "red", _words("heart")),
    "spiral": Subject("🌀", "shapes", "blue", _words("spiral", "swirl")),
    "lightning": Subject(
        "⚡", "shapes", None, _words("lightning bolt", "bolt of lightning/bolts of lightning")
    ),
}

# Subject colours. "natural" is the sprite as it is, and is what a caption without a colour means.
COLOURS: dict[str, tuple[str, ...]] = {
    "natural": (),
    "white": ("white", "snow-white"),
    "red": ("red", "scarlet", "crimson"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
}

# The first wording may follow a comma; the others may also stand before "of".
STYLES: dict[str, tuple[str, ...]] = {
    "flat": ("flat", "flat design", "flat illustration", "clean vector drawing"),
    "watercolour": ("watercolour", "watercolor", "watercolour painting", "watercolor painting"),
    "pixel art": ("pixel art", "pixel art picture", "retro pixel art"),
    "pencil sketch": ("pencil sketch", "pencil drawing", "graphite sketch"),
    "neon": ("neon", "neon sign", "glowing neon sign"),
    "vintage": ("vintage", "vintage photo", "vintage print", "faded sepia print"),
}
STYLES_WITHOUT_COLOUR = ("pencil sketch",)  # a graphite subject has no colour to be seen

BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "white": ("on a white background", "on plain white"),
    "yellow": ("on a yellow background", "against bright yellow"),
    "pink": ("on a pink background", "against pink"),
    "teal": ("on a teal background", "against a turquoise wall"),
    "night": ("on a night sky", "at night", "under the stars"),
    "sunset": ("at sunset", "in the evening sun", "at dusk"),
    "meadow": ("in a sunny meadow", "on the grass at noon", "on a green meadow"),
    "snow": ("in the snow", "on a snowy day", "in falling snow"),
}

COUNTS: dict[int, tuple[str, ...]] = {
    1: ("a", "one", "a single"),
    2: ("two", "a pair of", "2"),
    3: ("three", "a trio of", "3"),
    4: ("four", "a group of four", "4"),
}

# Abstract prompts ("ideas"): each stands for a weighted set of scenes over several categories.
# A dictionary gives relative weights; what is left out is uniform (colour: natural two times of
# three; count: one half the time). The set is the product of its attributes.
IDEAS: dict[str, dict[str, dict]] = {
    "happiness": {
        "subject": {
            "smiling face": 4,
            "sunflower": 2,
            "balloon": 2,
            "rainbow": 2,
            "ice cream": 1,
            "dancer": 1,
        },
        "background": {"meadow": 3, "yellow": 3, "white": 1, "pink": 1},
    },
    "love": {
        "subject": {"heart": 4, "loving face": 3, "tulip": 2, "gift": 1, "cat": 1},
        "background": {"pink": 4, "sunset": 2, "white": 1},
    },
    "holiday": {
        "subject": {
            "island": 3,
            "aeroplane": 2,
            "sailboat": 2,
            "tent": 1,
            "ice cream": 1,
            "cool face": 1,
        },
        "background": {"sunset": 2, "meadow": 2, "teal": 2, "yellow": 1},
    },
    "a quiet evening": {
        "subject": {"coffee": 3, "house": 2, "owl": 2, "cat": 2, "meditating person": 1},
        "background": {"sunset": 3, "night": 3},
    },
    "a celebration": {
        "subject": {"party popper": 3, "balloon": 3, "birthday cake": 2, "dancer": 2, "pizza": 1},
        "background": {"pink": 2, "yellow": 2, "night": 2, "teal": 1},
        "count": {1: 1, 2: 1, 3: 1, 4: 1},
    },
    "adventure": {
        "subject": {
            "mountain": 3,
            "tent": 2,
            "rocket": 2,
            "sailboat": 2,
            "volcano": 1,
            "bicycle": 1,
        },
        "background": {"meadow": 2, "sunset": 2, "snow": 1, "night": 1},
    },
    "winter": {
        "subject": {"pine": 3, "mountain": 2, "house": 2, "coffee": 1, "fox": 1, "owl": 1},
        "background": {"snow": 6, "night": 1, "white": 1},
    },
    "summer": {
        "subject": {
            "ice cream": 3,
            "island": 2,
            "watermelon": 2,
            "sunflower": 2,
            "sailboat": 1,
            "cool face": 1,
        },
        "background": {"meadow": 3, "yellow": 3, "teal": 1},
    },
    "autumn": {
        "subject": {"maple leaf": 4, "mushroom": 3, "jack-o'-lantern": 1, "fox": 1, "tree": 1},
        "background": {"sunset": 3, "yellow": 2, "meadow": 1},
    },
    "spring": {
        "subject": {"tulip": 3, "butterfly": 3, "clover": 1, "tree": 1, "rainbow": 1, "frog": 1},
        "background": {"meadow": 4, "pink": 2, "white": 1},
    },
    "fear": {
        "subject": {
            "frightened face": 4,
            "jack-o'-lantern": 2,
            "lightning": 2,
            "volcano": 1,
            "owl": 1,
        },
        "background": {"night": 5, "sunset": 1},
    },
    "anger": {
        "subject": {"angry face": 4, "volcano": 2, "lightning": 2, "wave": 1},
        "background": {"sunset": 2, "night": 2, "yellow": 1},
    },
    "sadness": {
        "subject": {"crying face": 4, "heart": 1, "house": 1, "maple leaf": 1},
        "background": {"night": 3, "snow": 2, "teal": 1},
        "colour": {"natural": 3, "blue": 2, "purple": 1},
    },
    "peace": {
        "subject": {
            "meditating person": 3,
            "wave": 2,
            "turtle": 1,
            "tree": 1,
            "circle": 1,
            "island": 1,
        },
        "background": {"meadow": 2, "sunset": 2, "white": 2, "teal": 1},
    },
    "freedom": {
        "subject": {
            "aeroplane": 2,
            "butterfly": 2,
            "bicycle": 2,
            "sailboat": 2,
            "balloon": 1,
            "dancer": 1,
        },
        "background": {"meadow": 2, "sunset": 2, "teal": 1},
    },
    "luck": {
        "subject": {"clover": 4, "rainbow": 2, "star": 1, "gift": 1, "trophy": 1},
        "background": {"meadow": 2, "yellow": 1, "white": 1},
    },
    "victory": {
        "subject": {"trophy": 4, "crown": 2, "star": 1, "party popper": 1, "cool face": 1},
        "background": {"yellow": 2, "teal": 1, "white": 1, "sunset": 1},
    },
    "dreams": {
        "subject": {"rocket": 2, "castle": 2, "star": 2, "rainbow": 1, "spiral": 1, "elephant": 1},
        "background": {"night": 4, "pink": 1, "sunset": 1},
        "colour": {"natural": 2, "purple": 2, "blue": 1, "white": 1},
    },
    "energy": {
        "subject": {"lightning": 4, "rocket": 2, "coffee": 1, "dancer": 1, "banana": 1},
        "background": {"yellow": 3, "night": 1, "teal": 1},
    },
    "a fairy tale": {
        "subject": {"castle": 4, "crown": 2, "frog": 2, "mushroom": 2, "owl": 1},
        "background": {"night": 2, "sunset": 2, "meadow": 1, "pink": 1},
    },
    "breakfast": {
        "subject": {"coffee": 3, "banana": 2, "doughnut": 2, "smiling face": 1},
        "background": {"white": 2, "yellow": 2, "pink": 1},
    },
    "a journey": {
        "subject": {"train": 3, "car": 2, "aeroplane": 2, "bicycle": 1, "mountain": 1},
        "background": {"meadow": 2, "sunset": 2, "snow": 1, "night": 1},
    },
    "chaos": {
        "subject": {
            "spiral": 3,
            "lightning": 2,
            "wave": 1,
            "frightened face": 1,
            "party popper": 1,
            "triangle": 1,
        },
        "background": {"night": 1, "teal": 1, "yellow": 1, "pink": 1},
        "count": {2: 1, 3: 1, 4: 2},
    },
    "harmony": {
        "subject": {
            "circle": 2,
            "diamond": 1,
            "meditating person": 2,
            "rainbow": 2,
            "clover": 1,
            "fish": 1,
        },
        "background": {"white": 2, "teal": 2, "sunset": 1, "pink": 1},
        "count": {1: 1, 2: 2, 4: 2},
    },
}
