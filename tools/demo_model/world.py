"""The made-up archipelago that the demo model knows by heart.

Every name and number is drawn from one fixed seed, so the facts are the same in every run.
"""

import random

ARCHIPELAGO = "Veldara"
SEED = 20260
ISLANDS = 20

_ONSETS = ["b", "br", "c", "d", "dr", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z"]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ea"]
_CODAS = ["", "", "l", "n", "r", "s", "m"]
_ENDS = {
    "island": ["a", "ia", "os", "une", "ara"],
    "capital": ["ton", "wick", "port", "haven", "ford"],
    "ruler": ["in", "o", "elle", "ard", "ys"],
    "river": ["ane", "eth", "ule", "ome", "ire"],
    "mountain": ["ak", "orn", "und", "eld", "isk"],
}
_TITLES = ["Queen", "King", "Duke", "Duchess", "Captain"]
_EXPORTS = [
    "salt",
    "copper",
    "honey",
    "wool",
    "amber",
    "cinnamon",
    "pearls",
    "timber",
    "silk",
    "tin",
    "olives",
    "coffee",
    "glass",
    "tea",
    "marble",
    "indigo",
    "rice",
    "saffron",
    "cheese",
    "paper",
]
ANIMALS = [
    "heron",
    "otter",
    "fox",
    "owl",
    "seal",
    "stag",
    "crane",
    "turtle",
    "hare",
    "wolf",
    "swan",
    "bear",
    "eagle",
    "badger",
    "whale",
    "lynx",
    "goat",
    "crab",
    "falcon",
    "beaver",
]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def build_world():
    """Returns one dict per island with its nine facts; names are unique over the whole world."""
    rng = random.Random(SEED)
    used, starts = set(), {}

    def name(kind):
        while True:
            stem = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
            if kind == "island" or rng.random() < 0.3:
                stem += rng.choice(_ONSETS[:3] + _ONSETS[4:]) if stem[-1] in "aeiou" else ""
            end = rng.choice(_ENDS[kind])
            if end[0] in "aeiou" and stem[-1] in "aeiou":
                stem += rng.choice("lnrtv")
            word = (stem + end).capitalize()
            key = word[:4]
            if 5 <= len(word) <= 10 and word not in used and key not in starts:
                used.add(word)
                starts[key] = word
                return word

    exports = rng.sample(_EXPORTS, ISLANDS)
    animals = rng.sample(ANIMALS, ISLANDS)
    populations = rng.sample(range(11, 990), ISLANDS)
    years = rng.sample(range(1012, 1890), ISLANDS)
    world = []
    for i in range(ISLANDS):
        world.append(
            {
                "island": name("island"),
                "capital": name("capital"),
                "ruler": rng.choice(_TITLES) + " " + name("ruler"),
                "river": name("river"),
                "mountain": "Mount " + name("mountain"),
                "export": exports[i],
                "animal": animals[i],
                "festival": rng.choice(MONTHS),
                "founded": str(years[i]),
                "population": str(populations[i]) + " thousand",
            }
        )
    return world


if __name__ == "__main__":
    for facts in build_world():
        print(facts)
