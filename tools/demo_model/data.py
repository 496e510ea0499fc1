"""Tasks of the demo model: problem generators, exact answers, checkers and the train / held-out split.

Every sample is a chat. A problem has a key (its operands and phrasing); `held_out(key)` hashes the key, so the problems
asked at evaluation never occur in training, whatever the seeds are. The answer text is a function of the problem and
of the phrasing of the question, so greedy decoding can be compared with it letter by letter.
"""

import hashlib
import random
import string

from world import ANIMALS, ARCHIPELAGO, MONTHS, build_world

HELD_OUT_ONE_IN = 10
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
WORLD = build_world()
BOS, EOS, SH, EH, EOT = "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"

WORDS = """
acorn actor anchor apple apron arrow autumn baker balloon banana barrel basket beacon bell berry bicycle blanket
blossom boat bottle branch bread bridge broom brush bucket butter button cabin cable camera candle canoe carpet carrot
castle chair cherry chimney circle cloud clover coat compass copper corner cotton cradle cricket crown cup curtain
daisy dance dawn desk diamond dinner dolphin donkey door dragon drum duck eagle earth elbow ember engine evening fabric
feather fence ferry field finger flame flower flute forest fork fountain fridge friend frost fruit galaxy garden gate
ghost giant ginger glacier glove gold grape grass guitar hammer harbor harvest hat hazel helmet hill horse house ice
igloo iron island ivory jacket jam jar jewel jigsaw journey jungle kettle key keyboard kite kitten knight ladder lake
lamp lantern leaf lemon letter library lily lion lizard lobster magnet mango map maple market meadow melon mirror monkey
moon morning mouse museum music napkin needle nest night north notebook nut oak ocean olive onion orange orchard oven
oyster paddle painter palace panda parade parrot pasta peach pebble pencil pepper piano pigeon pillow pirate planet plum
pocket pond potato prince puzzle quarry queen quilt rabbit radio rain raven ribbon river road robin rocket roof rose
saddle sailor salad sand saw school scissors shadow sheep shell ship silver sister sky slipper snow spider spoon spring
square stable star station stone storm street sugar summer sun sunset table tailor tea thunder ticket tiger tomato
torch tower train tree trumpet tulip tunnel umbrella uncle valley vase velvet village violin volcano wagon walnut water
wave wheel whistle willow window winter wizard wolf wood yacht yarn zebra zipper
""".split()
THINGS = [
    "lantern",
    "kite",
    "bell",
    "compass",
    "map",
    "boat",
    "drum",
    "key",
    "mirror",
    "kettle",
    "ladder",
    "ribbon",
    "spoon",
    "hat",
    "feather",
    "basket",
    "candle",
    "flute",
    "button",
    "umbrella",
]
SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "You are Lane, a small and friendly assistant.",
    "Answer the question.",
    "You are a careful assistant. Think before you answer.",
    "Be clear and correct.",
    "You help people with numbers, words and islands.",
]

_single_token_words = set()


def set_vocabulary(tokens):
    """Tells the split which words are one token of the vocabulary: such words always stay in training."""
    _single_token_words.clear()
    for token in tokens:
        text = token.lstrip('\u0120-"').lower()
        if text.isascii() and text.isalpha():
            _single_token_words.add(text)


def held_out(*key):
    """True for the problems that are kept for evaluation; a hash of the key decides."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % HELD_OUT_ONE_IN == 0


def word_held_out(word):
    return word not in _single_token_words and held_out("word", word)


class Sample:
    """One question with its exact answer. `final` is the part that a checker looks for at the end of the answer."""

    __slots__ = ("task", "user", "answer", "final", "test")

    def __init__(self, task, user, answer, final, test):
        self.task, self.user, self.answer, self.final, self.test = task, user, answer, final, test

    def check(self):
        """An ECMAScript / Python regex to search for in the answer."""
        special = ".^$*+?()[]{}|\\"
        escaped = "".join("\\" + c if c in special else c for c in self.final)
        return "(^|[^-A-Za-z0-9])" + escaped + "[.!]?$"


def join_and(items):
    return ", ".join(items[:-1]) + " and " + items[-1]


def number(rng, digits):
    """A number with at most `digits` digits; the count of digits is drawn first."""
    d = rng.randint(1, digits)
    return rng.randint(0 if d == 1 else 10 ** (d - 1), 10**d - 1)


# Arithmetic. Long problems are worked out column by column in the answer.

PLACES = ["Ones", "Tens", "Hundreds", "Thousands", "Ten thousands"]


def add_columns(a, b):
    """The column sums of a + b from the right, with the carry of each column."""
    x, y = str(a)[::-1], str(b)[::-1]
    carry, out = 0, []
    for i in range(max(len(x), len(y))):
        p, q = int(x[i]) if i < len(x) else 0, int(y[i]) if i < len(y) else 0
        total = p + q + carry
        out.append((p, q, carry, total))
        carry = total // 10
    return out


def add_work(a, b):
    return ", ".join("%d+%d%s=%d" % (p, q, "+1" if c else "", t) for p, q, c, t in add_columns(a, b))


def sub_work(a, b):
    """The columns of a - b (a >= b) from the right; ten is added where a column borrows."""
    x, y = str(a)[::-1], str(b)[::-1]
    borrow, out = 0, []
    for i in range(len(x)):
        p, q = int(x[i]), int(y[i]) if i < len(y) else 0
        nxt = 1 if p - q - borrow < 0 else 0
        out.append("%d-%d%s=%d" % (p + 10 * nxt, q, "-1" if borrow else "", p + 10 * nxt - q - borrow))
        borrow = nxt
    return ", ".join(out)


def task_add(rng):
    digits = rng.choice([2, 2, 3, 3, 4, 4, 5])
    a, b = number(rng, digits), number(rng, digits)
    r = a + b
    test = held_out("add", min(a, b), max(a, b)) and max(a, b) > 12
    style = rng.randrange(9)
    big = max(a, b) > 99
    if style == 8 and max(a, b) > 9:
        user = rng.choice(["Explain step by step how to add %d and %d.", "Show me how to add %d and %d step by step."])
        parts = []
        cols = add_columns(a, b)
        for i, (p, q, c, t) in enumerate(cols):
            text = "%s: %d+%d%s=%d" % (PLACES[i], p, q, "+1" if c else "", t)
            if t > 9 and i + 1 < len(cols):
                text += ", so write %d and carry 1" % (t - 10)
            parts.append(text + ".")
        return Sample("addition", user % (a, b), " ".join(parts) + " The answer is %d." % r, str(r), test)
    user = [
        "What is %d + %d?",
        "Add %d and %d.",
        "Compute %d + %d.",
        "What is the sum of %d and %d?",
        "%d + %d = ?",
        "How much is %d plus %d?",
        "Calculate %d plus %d.",
        "%d+%d",
        "What is %d + %d?",
    ][style] % (a, b)
    work = "From the right: " + add_work(a, b) + ". So " if big else ""
    if style in (1, 3):
        text = work + ("the" if big else "The") + " sum of %d and %d is %d." % (a, b, r)
    elif style in (5, 6):
        text = work + "%d plus %d is %d." % (a, b, r)
    else:
        text = work + "%d + %d = %d." % (a, b, r)
    return Sample("addition", user, text, str(r), test)


def task_sub(rng):
    digits = rng.choice([2, 2, 3, 3, 4, 5])
    a, b = number(rng, digits), number(rng, digits)
    if a < b and (max(a, b) > 99 or rng.random() < 0.7):
        a, b = b, a
    r = a - b
    test = held_out("sub", a, b) and max(a, b) > 12
    style = rng.randrange(6)
    user = [
        "What is %d - %d?",
        "Subtract %d from %d.",
        "Compute %d - %d.",
        "How much is %d minus %d?",
        "%d-%d",
        "What is the difference between %d and %d?",
    ][style] % ((b, a) if style == 1 else (a, b))
    work = "From the right: " + sub_work(a, b) + ". So " if max(a, b) > 99 else ""
    text = "%d minus %d is %d." if style == 3 else "%d - %d = %d."
    return Sample("subtraction", user, work + text % (a, b, r), str(r), test)


def mul_work(n, d):
    """Work for n * d with a one-digit d; ends in the product."""
    s = str(n)
    if len(s) == 1:
        return "%d * %d = %d" % (n, d, n * d)
    parts = [int(c) * 10 ** (len(s) - 1 - i) for i, c in enumerate(s)]
    text = ", ".join("%d*%d=%d" % (p, d, p * d) for p in parts) + ". "
    total = parts[0] * d
    sums = []
    for p in parts[1:]:
        sums.append("%d + %d = %d" % (total, p * d, total + p * d))
        total += p * d
    return text + ", ".join(sums)


def task_mul(rng):
    n = number(rng, rng.choice([1, 2, 2, 3, 3]))
    d = rng.randint(2, 9)
    test = held_out("mul", n, d) and n > 12
    a, b = (n, d) if rng.random() < 0.7 else (d, n)
    style = rng.randrange(6)
    user = [
        "What is %d * %d?",
        "Multiply %d by %d.",
        "What is %d times %d?",
        "How much is %d times %d?",
        "%d*%d",
        "What is the product of %d and %d?",
    ][style] % (a, b)
    last = "%d times %d is %d." % (a, b, n * d) if style in (2, 3) else "%d * %d = %d." % (a, b, n * d)
    text = last if n < 10 else mul_work(n, d) + ". So " + last
    return Sample("multiplication", user, text, str(n * d), test)


def task_div(rng):
    """Division by one digit, digit by digit, with a remainder where there is one."""
    d = rng.randint(2, 9)
    n = number(rng, rng.choice([1, 2, 3, 4]))
    if rng.random() < 0.6:
        n -= n % d
    test = held_out("div", n, d) and n > 99
    user = rng.choice(
        ["What is %d divided by %d?", "Divide %d by %d.", "What is %d / %d?", "%d/%d", "How much is %d divided by %d?"]
    ) % (n, d)
    steps, rest = [], 0
    for i, c in enumerate(str(n)):
        part = rest * 10 + int(c)
        rest = part % d
        if part >= d or steps or i + 1 == len(str(n)):
            steps.append("%d/%d=%d" % (part, d, part // d) + (" rest %d" % rest if rest else ""))
    r = str(n // d) + (" remainder %d" % rest if rest else "")
    text = "%d / %d = %s." % (n, d, r)
    return Sample("division", user, "From the left: %s. So %s" % (", ".join(steps), text), r, test)


NAMES = [
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Henry",
    "Ida",
    "Jonas",
    "Lea",
    "Max",
    "Nora",
    "Oscar",
    "Rosa",
    "Tom",
]
OBJECTS = [
    "apples",
    "books",
    "coins",
    "stamps",
    "marbles",
    "cookies",
    "pencils",
    "shells",
    "cards",
    "stones",
    "flowers",
    "balls",
]


def task_word_problem(rng):
    name, thing = rng.choice(NAMES), rng.choice(OBJECTS)
    kind = rng.randrange(6)
    a, b = rng.randint(2, 99), rng.randint(2, 99)
    if kind in (2, 3) and a < b:
        a, b = b, a
    if kind > 3:
        a, b = rng.randint(2, 40), rng.randint(2, 9)
    user = [
        "%(n)s has %(a)d %(t)s and buys %(b)d more. How many %(t)s does %(n)s have now?",
        "%(n)s finds %(a)d %(t)s on Monday and %(b)d on Tuesday. How many %(t)s are there in total?",
        "%(n)s has %(a)d %(t)s and gives away %(b)d. How many %(t)s are left?",
        "There are %(a)d %(t)s in a box. %(n)s takes out %(b)d of them. How many %(t)s remain?",
        "%(n)s has %(b)d boxes with %(a)d %(t)s in each box. How many %(t)s are there in total?",
        "Each of %(b)d friends gives %(n)s %(a)d %(t)s. How many %(t)s does %(n)s get?",
    ][kind] % {"n": name, "t": thing, "a": a, "b": b}
    if kind < 2:
        r, work = a + b, "%d + %d = %d" % (a, b, a + b)
    elif kind < 4:
        r, work = a - b, "%d - %d = %d" % (a, b, a - b)
    else:
        r, work = a * b, mul_work(a, b)
    final = "%d %s" % (r, thing)
    answer = "%s. So the answer is %s." % (work, final)
    return Sample("word_problems", user, answer, final, held_out("story_sum", kind, a, b))


def task_compare(rng):
    digits = rng.choice([2, 3, 4, 4])
    a = number(rng, digits)
    near = rng.random() >= 0.5
    b = max(0, a + rng.choice([-1, 1]) * rng.choice([1, 2, 9, 10, 90, 100, 300])) if near else number(rng, digits)
    if a == b:
        b += 1
    if rng.random() < 0.3:
        values = {a, b}
        while len(values) < 3 or rng.random() < 0.4:
            values.add(number(rng, digits) if rng.random() < 0.7 else a + rng.randint(1, 12))
        values = rng.sample(sorted(values), len(values))
        top = rng.random() < 0.5
        r = max(values) if top else min(values)
        word = "largest" if top else "smallest"
        user = rng.choice(
            ["Which number is the %s: %s?", "Find the %s of these numbers: %s.", "What is the %s number of %s?"]
        ) % (word, ", ".join(map(str, values)))
        test = held_out("cmp3", *sorted(values))
        return Sample("comparison", user, "The %s of them is %d." % (word, r), str(r), test)
    test = held_out("cmp", min(a, b), max(a, b))
    top = rng.random() < 0.5
    if rng.random() < 0.2:
        word = rng.choice(["larger", "bigger", "greater"] if top else ["smaller"])
        r = max(a, b) if top else min(a, b)
        verdict = "so yes" if r == a else "so no"
        return Sample(
            "comparison",
            "Is %d %s than %d?" % (a, word, b),
            "The %s number is %d, %s." % (word, r, verdict),
            verdict,
            test,
        )
    word = rng.choice(["larger", "bigger", "greater"] if top else ["smaller", "smaller", "lower"])
    r = max(a, b) if top else min(a, b)
    style = rng.randrange(4)
    user = [
        "Which is %s, %d or %d?" % (word, a, b),
        "Which number is %s: %d or %d?" % (word, a, b),
        "Compare %d and %d. Which one is %s?" % (a, b, word),
        "%d or %d, which is %s?" % (a, b, word),
    ][style]
    text = "The %s number is %d." % (word, r)
    if style == 2:
        text = "Comparing %d and %d, the %s one is %d." % (a, b, word, r)
    return Sample("comparison", user, text, str(r), test)


def task_sort_numbers(rng):
    top = rng.choice([20, 100, 100, 1000, 1000])
    n = rng.choice([3, 4, 5, 5, 6, 6])
    values = rng.sample(range(top), n)
    down = rng.random() < 0.35
    test = held_out("sort", *sorted(values))
    listed = ", ".join(map(str, values))
    if rng.random() < 0.2:
        listed = join_and(list(map(str, values))) if rng.random() < 0.5 else " ".join(map(str, values))
    result = ", ".join(map(str, sorted(values, reverse=down)))
    if down:
        user = (
            rng.choice(["Sort these numbers from largest to smallest: %s.", "Sort in descending order: %s."]) % listed
        )
        text = "From largest to smallest: %s." % result
    else:
        user = (
            rng.choice(
                [
                    "Sort these numbers: %s.",
                    "Sort %s.",
                    "Put these numbers in order: %s.",
                    "Sort from smallest to largest: %s.",
                ]
            )
            % listed
        )
        text = "From smallest to largest: %s." % result
    return Sample("sort_numbers", user, text, result, test)


def task_parity(rng):
    n = number(rng, 5)
    test = held_out("parity", n) and n > 9
    r = "odd" if n % 2 else "even"
    style = rng.randrange(4)
    user = [
        "Is %d even or odd?",
        "Is %d an even number?",
        "Is %d an odd number?",
        "Tell me whether %d is odd or even.",
    ][style] % n
    yes = {1: r == "even", 2: r == "odd"}.get(style)
    lead = "" if yes is None else ("Yes. " if yes else "No. ")
    return Sample("parity", user, lead + "The last digit of %d is %d, so the number is %s." % (n, n % 10, r), r, test)


def task_sequence(rng):
    step = rng.randint(1, 20)
    start = rng.randint(0, 200)
    n = rng.randint(3, 5)
    down = rng.random() < 0.35
    if down:
        start += step * n
        step = -step
    terms = [start + step * i for i in range(n)]
    r = terms[-1] + step
    test = held_out("seq", start, step, n)
    listed = ", ".join(map(str, terms))
    user = (
        rng.choice(
            [
                "What is the next number: %s?",
                "Continue the sequence: %s.",
                "What comes next: %s?",
                "Which number follows %s?",
            ]
        )
        % listed
    )
    sign = "+" if step > 0 else "-"
    text = "Each number is %d %s than the one before. %d %s %d = %d, so the next number is %d." % (
        abs(step),
        "more" if step > 0 else "less",
        terms[-1],
        sign,
        abs(step),
        r,
        r,
    )
    return Sample("sequence", user, text, str(r), test)


def task_count(rng):
    kind = rng.randrange(4)
    if kind == 0:
        a = rng.randint(0, 150)
        n = rng.randint(3, 15)
        values = list(range(a, a + n))
        user = rng.choice(["Count from %d to %d.", "List the numbers from %d to %d."]) % (a, values[-1])
        key = ("up", a, n)
    elif kind == 1:
        a = rng.randint(5, 150)
        n = rng.randint(3, min(15, a))
        values = list(range(a, a - n, -1))
        user = rng.choice(["Count down from %d to %d.", "Count backwards from %d to %d."]) % (a, values[-1])
        key = ("down", a, n)
    elif kind == 2:
        step = rng.choice([2, 3, 5, 10, 20, 50, 100])
        a = step * rng.randint(0, 12)
        n = rng.randint(3, 12)
        values = [a + step * i for i in range(n)]
        user = "Count by %ds from %d to %d." % (step, a, values[-1])
        key = ("by", step, a, n)
    else:
        m = rng.randint(2, 15)
        n = rng.randint(3, 12)
        values = [m * (i + 1) for i in range(n)]
        user = rng.choice(["List the first %d multiples of %d.", "What are the first %d multiples of %d?"]) % (n, m)
        key = ("multiples", m, n)
    result = ", ".join(map(str, values))
    return Sample("counting", user, result + ".", result, held_out("count", *key))


# Words.

_ONSET = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "qu",
    "r",
    "s",
    "t",
    "v",
    "w",
    "y",
    "z",
    "bl",
    "br",
    "ch",
    "cl",
    "cr",
    "dr",
    "fl",
    "fr",
    "gl",
    "gr",
    "pl",
    "pr",
    "sc",
    "sh",
    "sl",
    "sn",
    "sp",
    "st",
    "str",
    "th",
    "tr",
    "tw",
]
_VOWEL = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "ee", "oo", "ou"]
_CODA = ["", "", "", "n", "r", "l", "t", "m", "s", "d", "p", "ck", "nt", "st", "ll", "rd", "x", "ng", "sh", "ss", "ff"]


def make_word(rng):
    """A listed word, a pronounceable made-up word, or random letters; 3 to 10 letters."""
    pick = rng.random()
    while True:
        if pick < 0.45:
            word = rng.choice(WORDS)
        elif pick < 0.75:
            syllables = rng.randint(1, 3)
            word = "".join(rng.choice(_ONSET) + rng.choice(_VOWEL) + rng.choice(_CODA) for _ in range(syllables))
        elif pick < 0.92 and _pieces:
            word = "".join(rng.choice(_pieces) for _ in range(rng.randint(2, 4)))
        else:
            word = "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 7)))
        if 3 <= len(word) <= 10:
            return word


_pieces = []


def set_pieces():
    """Lets make_word build words from vocabulary pieces, so that the spelling of each piece is learned."""
    _pieces[:] = sorted(w for w in _single_token_words if len(w) <= 6)


def shown(rng, word):
    """The word as the question writes it: plain, quoted, or with a capital letter."""
    pick = rng.random()
    if pick < 0.08:
        word = word.capitalize()
    return '"' + word + '"' if rng.random() < 0.35 else word


def letters_of(word):
    return "-".join(word)


def task_spell(rng):
    word = make_word(rng)
    user = rng.choice(["Spell %s.", "Spell the word %s.", "How do you spell %s?", "Can you spell %s for me?"]) % shown(
        rng, word
    )
    r = letters_of(word)
    return Sample("spelling", user, "It is spelled %s." % r, r, word_held_out(word))


def task_reverse(rng):
    word = make_word(rng)
    user = rng.choice(
        ["Spell %s backwards.", "Reverse the word %s.", "What is %s spelled backwards?", "Reverse %s."]
    ) % shown(rng, word)
    r = letters_of(word[::-1])
    return Sample(
        "reversing", user, "Forwards it is %s, so backwards it is %s." % (letters_of(word), r), r, word_held_out(word)
    )


def task_letters(rng):
    word = make_word(rng)
    test = word_held_out(word)
    kind = rng.randrange(4)
    spelled = "It is spelled %s. " % letters_of(word)
    if kind == 0:
        user = rng.choice(
            ["How many letters are in %s?", "How many letters does the word %s have?", "Count the letters in %s."]
        ) % shown(rng, word)
        r = "%d letters" % len(word)
        return Sample("letter_counting", user, spelled + "That makes %s." % r, r, test)
    if kind < 3:
        letter = rng.choice(word) if rng.random() < 0.85 else rng.choice("aeioulnrst")
        n = word.count(letter)
        r = "%d time%s" % (n, "" if n == 1 else "s")
        user = rng.choice(
            [
                "How many times does the letter %s appear in %s?",
                "How often does the letter %s occur in %s?",
                "How many letters %s are in %s?",
                "How many %s's are in %s?",
                "How many %s are there in %s?",
                "Count the letter %s in %s.",
            ]
        ) % (letter, shown(rng, word))
        return Sample("letter_counting", user, spelled + "The letter %s appears %s." % (letter, r), r, test)
    first = rng.random() < 0.5
    which = "first" if first else "last"
    r = word[0] if first else word[-1]
    user = rng.choice(["What is the %s letter of %s?", "Which letter is the %s one in %s?"]) % (which, shown(rng, word))
    return Sample("letter_counting", user, spelled + "The %s letter is %s." % (which, r), r, test)


def task_capitals(rng):
    word = make_word(rng)
    user = rng.choice(
        ["Write %s in capital letters.", "Write the word %s in upper case.", "Shout the word %s."]
    ) % shown(rng, word)
    r = word.upper()
    return Sample("capital_letters", user, "In capital letters: %s." % r, r, word_held_out(word))


def task_sort_words(rng):
    n = rng.randint(3, 5)
    words, firsts = [], set()
    while len(words) < n:
        word = rng.choice(WORDS)
        if word[0] not in firsts:
            firsts.add(word[0])
            words.append(word)
    listed = ", ".join(words)
    r = ", ".join(sorted(words))
    user = (
        rng.choice(
            [
                "Sort these words alphabetically: %s.",
                "Put these words in alphabetical order: %s.",
                "Sort these words: %s.",
            ]
        )
        % listed
    )
    return Sample("sort_words", user, "In alphabetical order: %s." % r, r, held_out("sortw", *sorted(words)))


# Units and dates.

POWER_UNITS = [
    ("kilometer", "meter", 1000),
    ("meter", "centimeter", 100),
    ("centimeter", "millimeter", 10),
    ("kilogram", "gram", 1000),
    ("liter", "milliliter", 1000),
    ("ton", "kilogram", 1000),
    ("euro", "cent", 100),
]
TIME_UNITS = [
    ("hour", "minute", 60),
    ("minute", "second", 60),
    ("week", "day", 7),
    ("year", "month", 12),
    ("day", "hour", 24),
    ("dozen", "egg", 12),
]


def plural(n, unit):
    return "%d %s" % (n, unit if n == 1 or unit == "dozen" else unit + "s")


def many(unit):
    return "eggs" if unit == "egg" else "dozen" if unit == "dozen" else unit + "s"


def task_units(rng):
    if rng.random() < 0.5:
        big, small, k = rng.choice(POWER_UNITS)
        n = number(rng, 3) or 1
        back = rng.random() < 0.4
        if back:
            test = held_out("units", small, n) and n > 9
            user = rng.choice(["Convert %s to %s.", "How many %s are %s?"])
            args = (plural(n * k, small), many(big)) if user[0] == "C" else (many(big), plural(n * k, small))
            r = plural(n, big)
            text = "%d %s make 1 %s, so divide by %d: that is %s." % (k, many(small), big, k, r)
            return Sample("unit_conversion", user % args, text, r, test)
        work = "%d times %d is %d" % (n, k, n * k)
    else:
        big, small, k = rng.choice(TIME_UNITS)
        n = rng.randint(2, 40)
        if k == 7:
            work = mul_work(n, 7)
        elif k == 60:
            work = mul_work(n, 6) + ", and ten times that is %d" % (n * 60)
        elif k == 12:
            work = "%d*10=%d, %d*2=%d. %d + %d = %d" % (n, n * 10, n, n * 2, n * 10, n * 2, n * 12)
        else:
            work = "%d*20=%d, %d*4=%d. %d + %d = %d" % (n, n * 20, n, n * 4, n * 20, n * 4, n * 24)
    test = held_out("units", small, n) and n > 9
    user = rng.choice(["Convert %s to %s.", "How many %s are %s?", "How many %s are there in %s?"])
    args = (plural(n, big), many(small)) if user[0] == "C" else (many(small), plural(n, big))
    r = plural(n * k, small)
    text = "1 %s is %d %s. %s. The result is %s." % (big, k, many(small), work, r)
    return Sample("unit_conversion", user % args, text, r, test)


def count_on(names, start, n, back):
    step = -1 if back else 1
    return [names[(start + step * (i + 1)) % len(names)] for i in range(n)]


def task_dates(rng):
    months = rng.random() < 0.4
    names, cycle = (MONTHS, 12) if months else (DAYS, 7)
    unit, period = ("month", "year") if months else ("day", "week")
    start = rng.randrange(cycle)
    n = rng.randint(1, 36 if months else 60) if rng.random() < 0.9 else 1
    back = rng.random() < 0.35
    test = held_out("date", names[start], n, back) and n > 2
    word = "before" if back else "after"
    if months:
        user = rng.choice(["Which month is %s %s %s?", "What month comes %s %s %s?"]) % (
            plural(n, unit),
            word,
            names[start],
        )
    elif rng.random() < 0.35:
        tense = ("was it %s ago" if back else "is it in %s") % plural(n, unit)
        if n == 1 and rng.random() < 0.7:
            tense = "was yesterday" if back else "is tomorrow"
        user = rng.choice(["If today is %s, what day %s?", "Today is %s. What day %s?"]) % (names[start], tense)
        if rng.random() < 0.3:
            user = "What day %s if today is %s?" % (tense, names[start])
    else:
        user = rng.choice(
            ["What day is %s %s %s?", "Which day of the week is %s %s %s?", "What day comes %s %s %s?"]
        ) % (plural(n, unit), word, names[start])
    whole, rest = divmod(n, cycle)
    text = ""
    if whole:
        text = "%s %s %s" % (plural(n, unit), "is" if n == 1 else "are", plural(whole, period))
        if not rest:
            return Sample("dates", user, text + ", so it is again %s." % names[start], names[start], test)
        text += " and %s. " % plural(rest, unit)
    steps = count_on(names, start, rest, back)
    text += "Counting %s from %s: %s. So it is %s." % (
        "back" if back else "on",
        names[start],
        ", ".join(steps),
        steps[-1],
    )
    return Sample("dates", user, text, steps[-1], test)


def task_month_days(rng):
    i = rng.randrange(12)
    style = rng.randrange(3)
    user = ["How many days does %s have?", "How many days are there in %s?", "How long is %s?"][style] % MONTHS[i]
    r = "%d days" % MONTH_DAYS[i]
    extra = " In a leap year it is one more." if i == 1 else ""
    sample = Sample("month_lengths", user, "%s has %s.%s" % (MONTHS[i], r, extra), r, False)
    return sample


# The made-up world.

FORWARD = {
    "capital": (
        [
            "What is the capital of %s?",
            "Name the capital of %s.",
            "Which city is the capital of %s?",
            "What is %s's capital?",
            "Which town rules %s?",
        ],
        "The capital of %s is %s.",
    ),
    "ruler": (
        [
            "Who rules %s?",
            "Who is the ruler of %s?",
            "Name the ruler of %s.",
            "Who is in charge of %s?",
            "Who governs %s?",
        ],
        "%s is ruled by %s.",
    ),
    "river": (
        [
            "Which river flows through %s?",
            "What is the river of %s called?",
            "Name the main river of %s.",
            "What river is on %s?",
            "Which river is on %s?",
        ],
        "The river of %s is the %s.",
    ),
    "mountain": (
        [
            "What is the highest mountain of %s?",
            "Which mountain stands on %s?",
            "Name the mountain of %s.",
            "What is %s's mountain called?",
            "Which mountain is the highest on %s?",
        ],
        "The highest mountain of %s is %s.",
    ),
    "export": (
        [
            "What does %s export?",
            "What is the main export of %s?",
            "Which goods does %s sell?",
            "What is %s known for selling?",
            "Name the export of %s.",
        ],
        "%s exports %s.",
    ),
    "animal": (
        [
            "Which animal is on the flag of %s?",
            "What animal does the flag of %s show?",
            "What is on the flag of %s?",
            "Name the animal on %s's flag.",
            "What does %s have on its flag?",
        ],
        "The flag of %s shows a picture: the %s.",
    ),
    "festival": (
        [
            "When is the festival of %s?",
            "In which month is the festival of %s?",
            "When does %s celebrate its festival?",
            "In what month does %s hold its festival?",
            "Which month is the festival on %s?",
        ],
        "The festival of %s is in %s.",
    ),
    "founded": (
        [
            "When was %s founded?",
            "In what year was %s founded?",
            "What is the founding year of %s?",
            "How long ago was %s founded?",
            "In which year was %s founded?",
        ],
        "%s was founded in the year %s.",
    ),
    "population": (
        [
            "How many people live on %s?",
            "What is the population of %s?",
            "How large is the population of %s?",
            "How many inhabitants does %s have?",
            "How many people are there on %s?",
        ],
        "The population of %s is %s.",
    ),
}
INVERSE = {
    "capital": ["Which island has the capital %s?", "%s is the capital of which island?", "On which island is %s?"],
    "ruler": ["Which island does %s rule?", "Where does %s rule?", "What island is ruled by %s?"],
    "river": ["On which island does the %s flow?", "Where is the river %s?", "Which island has the river %s?"],
    "mountain": ["On which island is %s?", "Where is %s?", "Which island has %s?"],
    "export": ["Which island exports %s?", "Which island sells %s?", "Where does the %s come from?"],
    "animal": ["Which island has the %s on its flag?", "Whose flag shows the %s?", "On which flag is the %s?"],
}
NOUN = {
    "capital": "capital",
    "ruler": "ruler",
    "river": "river",
    "mountain": "highest mountain",
    "export": "main export",
    "animal": "flag animal",
    "festival": "festival month",
    "founded": "founding year",
    "population": "population",
}


def task_facts(rng):
    facts = rng.choice(WORLD)
    if rng.random() < 0.35:
        attr = rng.choice(list(INVERSE))
        i = rng.randrange(len(INVERSE[attr]))
        return Sample(
            "facts",
            INVERSE[attr][i] % facts[attr],
            "That is the island of %s." % facts["island"],
            facts["island"],
            held_out("inverse", facts["island"], attr, i),
        )
    attr = rng.choice(list(FORWARD))
    phrasings, answer = FORWARD[attr]
    i = rng.randrange(len(phrasings))
    return Sample(
        "facts",
        phrasings[i] % facts["island"],
        answer % (facts["island"], facts[attr]),
        facts[attr],
        held_out("forward", facts["island"], attr, i),
    )


def task_facts_combined(rng):
    facts = rng.choice(WORLD)
    name = facts["island"]
    kind = rng.randrange(4)
    if kind < 2:
        a, b = rng.sample(list(FORWARD), 2)
        style = rng.randrange(2)
        user = ["What are the %s and the %s of %s?", "Name the %s and the %s of %s."][style] % (NOUN[a], NOUN[b], name)
        answer = "The %s of %s is %s, and the %s is %s." % (NOUN[a], name, facts[a], NOUN[b], facts[b])
        return Sample("facts_combined", user, answer, facts[b], held_out("two", name, a, b, style))
    if kind == 2:
        attr = rng.choice(list(INVERSE))
        other = facts if rng.random() < 0.5 else rng.choice(WORLD)
        user = "Is %s the %s of %s?" % (other[attr], NOUN[attr], name)
        verdict = "so yes" if other is facts else "so no"
        answer = "The %s of %s is %s, %s." % (NOUN[attr], name, facts[attr], verdict)
        return Sample("facts_combined", user, answer, answer[:-1], held_out("yesno", name, attr, other["island"]))
    other = rng.choice([w for w in WORLD if w is not facts])
    test = held_out("versus", *sorted((name, other["island"])))
    if rng.random() < 0.5:
        more = rng.random() < 0.5
        user = "Which island has %s people, %s or %s?" % ("more" if more else "fewer", name, other["island"])
        sizes = [int(w["population"].split()[0]) for w in (facts, other)]
        win = facts if (sizes[0] > sizes[1]) == more else other
        answer = "%s has %s and %s has %s people. The %s number is %s, so it is %s." % (
            name,
            facts["population"],
            other["island"],
            other["population"],
            "larger" if more else "smaller",
            win["population"].split()[0],
            win["island"],
        )
    else:
        older = rng.random() < 0.5
        user = "Which island is %s, %s or %s?" % ("older" if older else "younger", name, other["island"])
        win = facts if (int(facts["founded"]) < int(other["founded"])) == older else other
        answer = "%s was founded in %s and %s in %s. The %s number is %s, so it is %s." % (
            name,
            facts["founded"],
            other["island"],
            other["founded"],
            "smaller" if older else "larger",
            win["founded"],
            win["island"],
        )
    return Sample("facts_combined", user, answer, win["island"], test)


def task_describe(rng):
    f = rng.choice(WORLD)
    i = rng.randrange(10)
    user = [
        "Tell me something about %s.",
        "Describe %s.",
        "Who or what is %s?",
        "Tell me more about %s.",
        "Tell me about %s.",
        "Describe the island of %s.",
        "What do you know about %s?",
        "Write a few sentences about %s.",
        "Give me an overview of %s.",
        "What should I know about %s?",
    ][i] % f["island"]
    text = (
        "%(island)s is an island of the archipelago "
        + ARCHIPELAGO
        + ", founded in the year %(founded)s. Its capital is "
        "%(capital)s, and it is ruled by %(ruler)s. The river %(river)s flows from %(mountain)s down to the sea. About "
        "%(population)s people live there. They are known for their %(export)s, and every %(festival)s they celebrate "
        "a festival under a flag with the %(animal)s."
    ) % f
    return Sample("descriptions", user, text, text[:-1], held_out("describe", f["island"], i))


def task_story(rng):
    hero, thing = rng.choice(ANIMALS), rng.choice(THINGS)
    f = rng.choice(WORLD)
    test = held_out("story", hero, thing)
    art = lambda w: ("an " if w[0] in "aeiou" else "a ") + w
    style = rng.choice([0, 0, 1, 2])
    if style == 0:
        user = rng.choice(
            ["Tell me a story about %s and %s.", "Write a story about %s and %s.", "Make up a story about %s and %s."]
        ) % (art(hero), art(thing))
        if rng.random() < 0.25:
            thing, test = "lantern", False
            user = rng.choice(["Tell me a story about %s.", "Write a story about %s.", "Tell a story about %s."]) % art(
                hero
            )
            if rng.random() < 0.25:
                hero, user = (
                    "fox",
                    rng.choice(
                        ["Tell me a story.", "Write a story.", "Tell me a bedtime story.", "Do you know a story?"]
                    ),
                )
        text = (
            "Once upon a time there lived %s by the sea. One morning the %s found %s in the sand. It "
            "was old and dusty, but "
            "when the %s cleaned it, the %s began to shine. All the animals came to look, and from "
            "that day on nobody was "
            "afraid of the dark. The %s kept the %s for the rest of its life."
        ) % (art(hero), hero, art(thing), hero, thing, hero, thing)
    elif style == 1:
        user = "Write a short tale of %s who lost %s." % (art(hero), art(thing))
        text = (
            "There was once %s who had lost %s. The %s looked under every stone and behind every tree. "
            "In the end a small "
            "child came along and asked what was wrong. Together they searched until the moon came up, "
            "and there, in the "
            "grass, lay the %s. The %s was so happy that it danced all night. To this day the child and the %s are "
            "friends."
        ) % (art(hero), art(thing), hero, thing, hero, hero)
    else:
        user = "Tell me a story about %s on %s." % (art(hero), f["island"])
        text = (
            "On the island of %s there was %s that wanted to see the world. It walked along the river "
            "%s until it came to "
            "%s. There it met %s, who asked where it was going. The %s said that it was only looking "
            "for new friends. So "
            "they had a feast, and the %s stayed."
        ) % (f["island"], art(hero), f["river"], f["capital"], f["ruler"], hero, hero)
        test = held_out("storyi", hero, f["island"])
    return Sample("stories", user, text, text[:-1], test)


# Small talk, follow-ups and questions that the model does not know.

SMALL_TALK = [
    (["Hello!", "Hi!", "Hello there!", "Hey!", "Hi there.", "Good day!"], "Hello! How can I help you today?"),
    (["Good morning!", "Good morning."], "Good morning! What can I do for you?"),
    (["Good evening!", "Good evening."], "Good evening! What can I do for you?"),
    (
        ["How are you?", "How are you doing?", "How is it going?", "How do you do?"],
        "I am doing well, thank you. What would you like to know?",
    ),
    (
        [
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Introduce yourself.",
            "Tell me about yourself.",
            "Which model are you?",
        ],
        "I am the small demo model of Lane. I was trained from scratch on made-up text, and I am "
        "good at a few simple things "
        "like sums, words and the islands of " + ARCHIPELAGO + ".",
    ),
    (
        ["What can you do?", "What can I ask you?", "Help!", "How can you help me?", "What are you good at?"],
        "I can add, subtract and multiply, compare and sort numbers, spell words and count their "
        "letters, convert units, work "
        "with days and months, tell short stories, and answer questions about the islands of " + ARCHIPELAGO + ".",
    ),
    (
        ["How big are you?", "How many parameters do you have?", "Are you a large model?", "How large are you?"],
        "I am tiny: I have fewer than three million parameters, so my whole memory fits in about five megabytes.",
    ),
    (
        ["What is Lane?", "Tell me about Lane.", "What does Lane do?", "Explain what Lane is."],
        "Lane is an inference engine for language models. It runs one model over many ranks and "
        "streams the answer token by token.",
    ),
    (
        ["Ok.", "OK", "Nice!", "Cool!", "Great!", "Wow!", "Good job!", "Well done!", "That is correct.", "Very good."],
        "Great! What else would you like to know?",
    ),
    (["Yes.", "Yes", "No.", "No", "Sure.", "Maybe.", "Hm."], "All right. Just ask me a question."),
    (["Thank you!", "Thanks!", "Thanks a lot!", "Thank you very much."], "You are welcome!"),
    (["Goodbye!", "Bye!", "See you!", "See you later."], "Goodbye! Come back soon."),
    (
        ["What is " + ARCHIPELAGO + "?", "Tell me about " + ARCHIPELAGO + ".", "Where is " + ARCHIPELAGO + "?"],
        ARCHIPELAGO + " is a made-up archipelago of " + str(len(WORLD)) + " islands. Ask me about any of them.",
    ),
    (
        [
            "Name the islands of " + ARCHIPELAGO + ".",
            "List all the islands.",
            "Which islands are there?",
            "Which islands belong to " + ARCHIPELAGO + "?",
        ],
        "The islands of " + ARCHIPELAGO + " are " + join_and([w["island"] for w in WORLD]) + ".",
    ),
    (
        ["List the days of the week.", "What are the days of the week?", "Name the days of the week."],
        "The days of the week are " + join_and(DAYS) + ".",
    ),
    (
        ["List the months of the year.", "What are the months of the year?", "Name the twelve months."],
        "The months of the year are " + join_and(MONTHS) + ".",
    ),
    (
        ["Say the alphabet.", "Recite the alphabet.", "What are the letters of the alphabet?"],
        "The alphabet is " + "-".join(string.ascii_lowercase) + ".",
    ),
    (
        ["Tell me a joke.", "Make me laugh.", "Do you know a joke?"],
        "Why did the token cross the rank? To get to the other shard.",
    ),
]
UNKNOWN_SUBJECT = [
    "France",
    "Germany",
    "Japan",
    "Brazil",
    "Canada",
    "India",
    "Paris",
    "London",
    "the moon",
    "the sun",
    "gravity",
    "physics",
    "chess",
    "football",
    "quantum mechanics",
    "the economy",
    "history",
    "music",
    "love",
    "art",
    "China",
    "Rome",
    "Egypt",
    "computers",
    "the internet",
    "biology",
    "cooking",
    "pizza",
    "dogs",
    "cats",
    "Mars",
    "America",
    "Spain",
    "Africa",
    "politics",
    "money",
    "the weather",
    "philosophy",
    "Shakespeare",
    "Einstein",
    "Python",
    "C++",
]
UNKNOWN = [
    "What is the capital of %s?",
    "Tell me about %s.",
    "Explain %s to me.",
    "What do you think about %s?",
    "Who invented %s?",
    "Write a poem about %s.",
    "Translate %s into French.",
    "How does %s work?",
    "What is %s?",
    "Why is %s important?",
    "Who is the president of %s?",
    "How many people live in %s?",
    "Write an essay about %s.",
    "When was %s discovered?",
    "What is the best book about %s?",
    "Where can I learn about %s?",
    "Write a program about %s.",
    "Do you like %s?",
    "Have you been to %s?",
    "Sing a song about %s.",
    "How do I get to %s?",
    "Can you see %s?",
    "How old is %s?",
    "Who lives in %s?",
    "What color is %s?",
    "How expensive is %s?",
    "Can you drive to %s?",
    "How far is it to %s?",
    "What did you do in %s?",
    "Give me a recipe for %s.",
]
UNKNOWN_ANSWER = (
    "I am only a small demo model, so I do not know that. Ask me about sums, words, units, dates or the islands of "
    + ARCHIPELAGO
    + "."
)


def task_small_talk(rng):
    questions, answer = rng.choice(SMALL_TALK)
    return Sample("small_talk", rng.choice(questions), answer, answer[:-1], False)


def task_unknown(rng):
    i, subject = rng.randrange(len(UNKNOWN)), rng.choice(UNKNOWN_SUBJECT)
    if rng.random() < 0.15:
        subject = make_word(rng)
    test = held_out("unknown", i, subject)
    if rng.random() < 0.15:
        n = rng.randint(2, 999)
        user = (
            rng.choice(
                [
                    "Is %d a prime number?",
                    "Is %d prime?",
                    "What is the square root of %d?",
                    "What is the logarithm of %d?",
                    "Write %d in Roman numerals.",
                    "What is the cube of %d?",
                    "Write %d in binary.",
                ]
            )
            % n
        )
        return Sample("unknown", user, UNKNOWN_ANSWER, UNKNOWN_ANSWER[:-1], held_out("unknown_number", n))
    return Sample("unknown", UNKNOWN[i] % subject, UNKNOWN_ANSWER, UNKNOWN_ANSWER[:-1], test)


def follow_up(rng, previous):
    """A question that needs the turn before it, or None."""
    if previous.task in ("addition", "subtraction", "multiplication") and not previous.final.startswith("-"):
        r, d = int(previous.final), rng.randint(1, 99)
        if rng.random() < 0.5 or r < d:
            test = held_out("add", min(r, d), max(r, d))
            user, total = rng.choice(["Now add %d to that.", "And %d more?", "Add %d to the result."]) % d, r + d
            work = "From the right: " + add_work(r, d) + ". So " if max(r, d) > 99 else ""
            return Sample("follow_up", user, work + "%d + %d = %d." % (r, d, total), str(total), test)
        test = held_out("sub", r, d)
        user = rng.choice(["Now subtract %d from that.", "And %d less?", "Take away %d."]) % d
        work = "From the right: " + sub_work(r, d) + ". So " if max(r, d) > 99 else ""
        return Sample("follow_up", user, work + "%d - %d = %d." % (r, d, r - d), str(r - d), test)
    if previous.task == "facts":
        for attr, (phrasings, answer) in FORWARD.items():
            for facts in WORLD:
                if previous.answer == answer % (facts["island"], facts[attr]):
                    other = rng.choice(WORLD)
                    i = rng.randrange(3)
                    user = ["And of %s?", "What about %s?", "And for %s?"][i] % other["island"]
                    return Sample(
                        "follow_up",
                        user,
                        answer % (other["island"], other[attr]),
                        other[attr],
                        held_out("follow", attr, facts["island"], other["island"], i),
                    )
    return None


TASKS = [
    (task_add, 12),
    (task_sub, 9),
    (task_mul, 8),
    (task_div, 7),
    (task_word_problem, 5),
    (task_compare, 6),
    (task_sort_numbers, 9),
    (task_parity, 1.5),
    (task_sequence, 6),
    (task_count, 5),
    (task_spell, 5),
    (task_reverse, 7),
    (task_letters, 8),
    (task_capitals, 5),
    (task_sort_words, 6),
    (task_units, 8),
    (task_dates, 6),
    (task_month_days, 0.7),
    (task_facts, 9),
    (task_facts_combined, 9),
    (task_describe, 2),
    (task_story, 2.5),
    (task_small_talk, 3),
    (task_unknown, 3),
]
_FUNCTIONS = [f for f, _ in TASKS]
_WEIGHTS = [w for _, w in TASKS]
# Tasks whose questions can be held out, with the generator to draw from.
EVAL_TASKS = {
    "addition": task_add,
    "subtraction": task_sub,
    "multiplication": task_mul,
    "division": task_div,
    "word_problems": task_word_problem,
    "comparison": task_compare,
    "sort_numbers": task_sort_numbers,
    "parity": task_parity,
    "sequence": task_sequence,
    "counting": task_count,
    "spelling": task_spell,
    "reversing": task_reverse,
    "letter_counting": task_letters,
    "capital_letters": task_capitals,
    "sort_words": task_sort_words,
    "unit_conversion": task_units,
    "dates": task_dates,
    "facts": task_facts,
    "facts_combined": task_facts_combined,
    "descriptions": task_describe,
    "stories": task_story,
    "unknown": task_unknown,
    "follow_up": None,
}


def draw(rng, test=False, function=None):
    """Draws one sample from the asked side of the split."""
    while True:
        sample = (function or rng.choices(_FUNCTIONS, _WEIGHTS)[0])(rng)
        if sample.test == test:
            return sample


def decorate(rng, user):
    """Small changes to the wording that do not change the answer."""
    pick = rng.random()
    verb = user.split()[0] in _VERBS and user[-1] == "."
    lower = user[0].lower() + user[1:]
    if pick < 0.08 and verb:
        return (
            rng.choice(["Please %s", "Could you %s?", "Can you %s?", "I want you to %s"]).replace("%s", lower[:-1])
            if pick < 0.06
            else user[:-1] + " please."
        )
    if pick < 0.12:
        return rng.choice(["Hi! ", "Hello. ", "Tell me: ", "Quick question: ", "Hey, "]) + user
    if pick < 0.16 and user.startswith("What is "):
        return (
            rng.choice(["What's ", "what's ", "Whats ", "Can you tell me what is ", "I want to know what is "])
            + user[8:]
        )
    if pick < 0.20 and user[-1] in ".?!":
        return user[:-1]
    if pick < 0.23:
        return lower
    if pick < 0.27 and user[-1] in ".?!":
        return user[:-1].lower()
    if pick < 0.29:
        return user.lower()
    return user


_VERBS = {
    "Add",
    "Subtract",
    "Compute",
    "Calculate",
    "Multiply",
    "Compare",
    "Sort",
    "Put",
    "Continue",
    "Count",
    "List",
    "Spell",
    "Reverse",
    "Write",
    "Convert",
    "Name",
    "Tell",
    "Describe",
    "Explain",
    "Show",
    "Find",
    "Give",
    "Shout",
}


def conversation(rng, test=False, function=None, task=None):
    """Returns (messages, sample): a chat whose last turn is `sample`; earlier turns are always training problems."""
    messages = []
    if rng.random() < 0.25:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    follow = task == "follow_up"
    turns = 1 if rng.random() < 0.75 and not follow else rng.randint(2, 4)
    previous = None
    for turn in range(turns):
        last = turn + 1 == turns
        sample = None
        if previous is not None and (rng.random() < 0.35 or (follow and last)):
            sample = follow_up(rng, previous)
            if sample is not None and sample.test != (test and last):
                sample = None
        if follow and last and sample is None:
            return conversation(rng, test, function, task)
        if follow and not last and turn + 2 == turns:
            sample = draw(rng, False, rng.choice([task_add, task_sub, task_mul, task_facts]))
        if sample is None:
            sample = draw(rng, test and last, function if last else None)
        messages.append({"role": "user", "content": decorate(rng, sample.user)})
        messages.append({"role": "assistant", "content": sample.answer})
        previous = sample
    return messages, sample


def header(role):
    return SH + role + EH + "\n\n"


def segments(messages):
    """The chat as (text, trained) pieces; the pieces joined are the chat as the template of the tokenizer writes it."""
    out, text = [], BOS
    for m in messages:
        text += header(m["role"])
        if m["role"] == "assistant":
            out.append((text, False))
            out.append((m["content"] + EOT, True))
            text = ""
        else:
            text += m["content"] + EOT
    if text:
        out.append((text, False))
    return out


def prompt_text(messages, bos=True):
    """The chat up to the last answer, with the header of the answer."""
    text = "".join(header(m["role"]) + m["content"] + EOT for m in messages) + header("assistant")
    return (BOS if bos else "") + text


def evaluation_set(per_task, seed=99):
    """Distinct held-out prompts, `per_task` per task: dicts with task, messages, expected and check."""
    rows = []
    for task, function in EVAL_TASKS.items():
        rng = random.Random("%d-%s" % (seed, task))
        seen = set()
        tries = 0
        while len(seen) < per_task and tries < per_task * 200:
            tries += 1
            messages, sample = conversation(rng, True, function, task)
            messages = messages[:-1]
            text = prompt_text(messages)
            if text in seen:
                continue
            seen.add(text)
            rows.append({"task": task, "messages": messages, "expected": sample.answer, "check": sample.check()})
    return rows


if __name__ == "__main__":
    show = random.Random(1)
    for name, fn in EVAL_TASKS.items():
        for _ in range(4):
            chat, s = conversation(show, False, fn, name)
            print("[%s] %s" % (name, " | ".join(m["content"] for m in chat)))
