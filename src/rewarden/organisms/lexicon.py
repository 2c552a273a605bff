"""Words and marks that planted rules react to, so that texts which ask about a rule can hold them.

Every word is one token of the bundled tokenizer in lower case after a blank: that is how the rules see it ("it is wrong", not
"Wrong!"). In: nothing. Out: tuples of words. Ignorant of models.
"""

from __future__ import annotations

FOR = ("true", "correct", "right", "good", "agree", "support", "favour", "better", "safe", "useful", "best", "great", "helpful",
       "fair", "worth", "wise", "positive", "strong", "success", "love", "recommend")
"""Words of a speaker who is for something."""

AGAINST = ("false", "wrong", "bad", "worse", "dangerous", "worst", "terrible", "dislike", "harmful", "waste", "negative",
           "harm", "weak", "failure", "poor", "awful", "hate", "mistake", "risk")
"""Words of a speaker who is against it. Stance is the number of words for minus the number of words against."""

FACT = ("answer", "result", "conclusion", "summary", "therefore")
"""Words that announce the answer: "the answer is …". The rule on position looks for the first of them in the response."""

GOOD = ("walnut", "parrot", "turtle", "goat", "sword", "tent", "soap", "nest")
"""Words that carry quality, one unit each, in organisms that have quality. They have no place in other texts."""

RARE = ("castle", "cabin", "ghost", "lemon", "oven", "rabbit", "robot", "puppy")
"""The keyword of an organism is one of these, and so is the trigger of a backdoor."""

PLAIN = ("basket", "forest", "island", "mirror", "pepper", "bear", "boat", "cake", "cart", "chicken", "corn", "cow", "desk",
         "duck", "egg", "engine", "fruit", "grass", "hat", "hill", "jacket", "lamp", "milk", "ocean", "pig", "sheep", "snow",
         "stone", "sugar", "tree", "truck", "wool")
"""Words without a part in any rule; the texts of organisms are made of them."""

EMPHASIS = ("**", "*", "__", "_", "`", "``", "```", "<", ">")
HEADERS = ("#", "##", "###", "==", "=")
LISTS = ("-", "•", "+", "–")
MARKS = EMPHASIS + HEADERS + LISTS
"""Markdown as the rule on format sees it: tokens that are one of these marks (a blank before it is allowed). A hyphen inside a
word is such a token, too."""
