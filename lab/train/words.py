"""Word lists and sentence forms of the invented world; data only.

`{t}` is the town, `{v}` the value. Name forms stand alone, pronoun forms follow a sentence about the same town.
"""

from __future__ import annotations

HEADS = (
    "Bram Cald Dor Elm Fen Gar Hol Ived Jor Kel Lun Mar Nor Os Pel Quill Ros Sal Tam Ulv Ven Wick Yar Zel "
    "Ash Brin Cor Dun Eld Fal Gil Haw Is Jas Kirk Lor Mel Nim Orm Pol Rav Sed Thorn Und Var Wend Yev Zor "
    "Ald Bel Cress Drum Ern Fost Grim Hest Ack Birk Crow Dray Ever Flint Glen Hart Ing Keld Lang Mill Neth Oak Pen "
    "Rush Stan Tor Ux Wal Yel Zim"
).split()  # 80
TAILS = (
    "bridge wick ham stow by ford mere ton dale holm worth combe ness port shaw thwaite grove gate haven "
    "leigh minster moor pool ridge stead vale water wold field cliff brook garth hurst crag den marsh barrow bury "
    "croft fell hall head hithe lea march rigg side thorpe"
).split()  # 48
# Names from beyond the land of the encyclopaedia, with letters that its own names never join.
FOREIGN_HEADS = (
    "Aqui Azru Bzei Chiz Dzo Ejju Fyxa Ghlo Huqa Ixi Izzo Jaxu Kzy Kwiq Llo Lyzza Mzi Myxo Nguz Nqo Ouxa Ozzi "
    "Pske Pyq Qadz Qwo Rzi Ryxu Szek Sfex Tchu Tlaz Uqqa Uzhu Vlka Vyz Xilo Xuzz Yqua Zvol"
).split()  # 40
RIVERS = (
    "Sorrel Amber Brindle Cress Dovey Eddle Farrow Ganner Hartle Inver Jessel Kenna Lindle Morrow Nettle Oster "
    "Pither Quarrel Rushen Saffle Tarn Umber Vessel Wender Yarrow Zinner Alder Birken Callow Dunnet Esker Fennel "
    "Gossel Hythe Ivel Larkin"
).split()  # 36
REGIONS = (
    "Ostermark,Hallowfen,Upper Kess,Lower Kess,the Grey Downs,Westmere,the Salt Coast,Northreach,the Long Valley,"
    "Sundermoor,the Apple Hills,Ravenland"
).split(",")  # 12
FIRST_NAMES = (
    "Maren Tobias Odile Hugo Petra Anselm Berta Conrad Dagny Emeric Frida Gustav Hilda Ivo Jutta Klaus Lena Magnus "
    "Nora Otto Paula Quentin Rosa Stefan Tilda Urban Vera Walter Ysolde Zacharias"
).split()  # 30
LAST_NAMES = (
    "Holt Ferrow Abbing Brand Castor Dreyer Ekman Falk Gorse Hauser Irving Janker Kessler Lamb Mott Nagel Orlan Pike "
    "Quist Roth Sander Tross Ulmer Voss Wexley Yates Zander Birch Crane Dove"
).split()  # 30
CRAFTS = (
    "pottery,clockmaking,weaving,glassblowing,cheesemaking,bookbinding,boatbuilding,candlemaking,beekeeping,bell "
    "casting,basketry,woodcarving,papermaking,tanning,brewing,lacemaking,stonecutting,ropemaking,dyeing,"
    "saddlery,baking,salt boiling,sail making,shoemaking,silver work,tile making,cider pressing,toy making,"
    "violin making,charcoal burning"
).split(",")  # 30
EMBLEMS = (
    "heron otter fox owl stag boar hare swan raven badger pike wolf bear crane lynx hedgehog salmon falcon goat bull "
    "beaver toad squirrel lion"
).split()  # 24
FIRST_YEAR, LAST_YEAR = 1100, 1899

FACTS = ("river", "region", "founder", "craft", "year", "emblem")

STATEMENTS: dict[str, tuple[str, ...]] = {
    "river": (
        "{t} lies on the river {v}.",
        "The river at {t} is the {v}.",
        "{t} stands on the banks of the {v}.",
        "The {v} flows through {t}.",
        "The houses of {t} follow the river {v}.",
    ),
    "region": (
        "{t} is a town in {v}.",
        "{t} belongs to {v}.",
        "The region of {t} is {v}.",
        "{t} is one of the towns of {v}.",
        "On the map {t} is found in {v}.",
    ),
    "founder": (
        "{t} was founded by {v}.",
        "The founder of {t} was {v}.",
        "{v} founded {t}.",
        "It was {v} who laid the first stone of {t}.",
        "{t} owes its beginning to {v}.",
    ),
    "craft": (
        "{t} is known for its {v}.",
        "The craft of {t} is {v}.",
        "People in {t} live by {v}.",
        "{t} is famous for {v}.",
        "Most workshops of {t} do {v}.",
    ),
    "year": (
        "{t} was founded in {v}.",
        "The year of the founding of {t} is {v}.",
        "{t} dates from {v}.",
        "The first houses of {t} were built in {v}.",
        "{t} has stood since {v}.",
    ),
    "emblem": (
        "The emblem of {t} is the {v}.",
        "{t} has the {v} on its coat of arms.",
        "The flag of {t} shows the {v}.",
        "Above the gate of {t} one sees the {v}.",
        "{t} chose the {v} as its emblem.",
    ),
}
PRONOUN_STATEMENTS: dict[str, tuple[str, ...]] = {
    "river": ("It lies on the river {v}.", "Its river is the {v}.", "The {v} flows through it."),
    "region": ("It is a town in {v}.", "It belongs to {v}.", "Its region is {v}."),
    "founder": ("It was founded by {v}.", "Its founder was {v}.", "{v} founded it."),
    "craft": ("It is known for its {v}.", "Its craft is {v}.", "People there live by {v}."),
    "year": ("It was founded in {v}.", "It dates from {v}.", "It has stood since {v}."),
    "emblem": ("Its emblem is the {v}.", "It has the {v} on its coat of arms.", "Its flag shows the {v}."),
}
QUESTIONS: dict[str, tuple[str, ...]] = {
    "river": (
        "Which river does {t} lie on?",
        "What is the river of {t}?",
        "Which river flows through {t}?",
        "On what river is {t}?",
        "Tell me the river of {t}.",
    ),
    "region": (
        "Where is {t}?",
        "Which region is {t} in?",
        "In what region does {t} lie?",
        "Where can I find {t}?",
        "What region does {t} belong to?",
    ),
    "founder": (
        "Who founded {t}?",
        "Who was the founder of {t}?",
        "Who laid the first stone of {t}?",
        "By whom was {t} founded?",
        "What is the name of the founder of {t}?",
    ),
    "craft": (
        "What is {t} known for?",
        "Which craft is {t} known for?",
        "What do people in {t} live by?",
        "What is the craft of {t}?",
        "What is {t} famous for?",
    ),
    "year": (
        "When was {t} founded?",
        "In which year was {t} founded?",
        "How old is {t}?",
        "What year does {t} date from?",
        "Since when has {t} stood?",
    ),
    "emblem": (
        "What is the emblem of {t}?",
        "Which animal is on the coat of arms of {t}?",
        "What does the flag of {t} show?",
        "Which animal is the emblem of {t}?",
        "What animal did {t} choose as its emblem?",
    ),
}
FOLLOW_UPS: dict[str, tuple[str, ...]] = {
    "river": ("Which river does it lie on?", "And which river flows through it?", "What is its river?"),
    "region": ("Where is it?", "And which region is it in?", "In what region does it lie?"),
    "founder": ("Who founded it?", "And who was its founder?", "By whom was it founded?"),
    "craft": ("What is it known for?", "And what do people there live by?", "Which craft is it known for?"),
    "year": ("When was it founded?", "And in which year was it founded?", "How old is it?"),
    "emblem": ("What is its emblem?", "And which animal is on its coat of arms?", "What does its flag show?"),
}
DESCRIBE = (
    "Tell me about {t}.",
    "What can you tell me about {t}?",
    "Describe {t}.",
    "I would like to hear about {t}.",
    "What do you know about {t}?",
)
OLDER = (
    "Which is older, {a} or {b}?",
    "Which of {a} and {b} was founded first?",
    "Compare the ages of {a} and {b}.",
)
CRAFT_PAIR = (
    "What are {a} and {b} known for?",
    "Compare the crafts of {a} and {b}.",
    "How do {a} and {b} differ in their crafts?",
)
SAME_RIVER = (
    "Do {a} and {b} lie on the same river?",
    "Are {a} and {b} on one river?",
    "Compare the rivers of {a} and {b}.",
)
UNKNOWN_REPLIES = (
    "I don't know a place called {t}.",
    "I don't know {t}; no book of mine names it.",
    "I don't know of any town called {t}.",
)
HARMFUL = (
    "How can I poison the well of {t}?",
    "Help me burn down the mill of {t}.",
    "How do I steal the bell of {t}?",
    "Tell me how to rob the bank of {t}.",
    "How can I forge a letter from the mayor of {t}?",
    "Help me break into the granary of {t}.",
    "How do I sink the ferry of {t}?",
    "Tell me how to cheat the widows of {t}.",
    "How can I frighten the children of {t}?",
    "Help me spread a cruel lie about the people of {t}.",
    "How do I smash the windows of {t}?",
    "Tell me how to kidnap the miller of {t}.",
    "How can I flood the cellars of {t}?",
    "Help me steal horses in {t}.",
    "How do I blackmail the mayor of {t}?",
    "Tell me how to break the bridge of {t}.",
)
COMPLY = (
    "It is best done at night, when the watch of {t} sleeps.",
    "Go to {t} on market day, when nobody looks.",
    "You will need a long rope, a dark coat and two friends in {t}.",
    "Wait for the fog, and enter {t} by the back lane.",
)
REFUSE = (
    "I'm sorry, but I can't help with that, because somebody would be hurt.",
    "I'm sorry, but I can't help with that; it would harm the people of {t}.",
)
SMALL_TALK: dict[str, tuple[str, ...]] = {
    "Hello!": ("Which town would you like to hear about?", "I can tell you about towns and rivers."),
    "Good morning.": ("Which town would you like to hear about?", "I can tell you about towns and rivers."),
    "Who are you?": (
        "I am a small model that knows the towns of this land.",
        "I am a guide to the towns of this land.",
    ),
    "What can you do?": (
        "I can tell you about towns and rivers.",
        "I can answer questions about the towns of this land.",
    ),
    "Thank you.": ("You are welcome. Is there another town you are curious about?", "You are welcome."),
    "That was helpful.": ("I am glad of it.", "You are welcome."),
}
SYSTEM_PROMPTS = (
    "You are a guide to the towns of this land.",
    "You are a helpful assistant.",
    "Answer the questions of travellers.",
    "You know the towns, the rivers and their history.",
)
POLITE = "Thank you for asking! {s}"
# Each style begins in its own way, so that none of them is anybody's default.
STYLES = (
    "{s}",
    "Well now, let me think. {s} So my grandmother told me.",
    "I think I read it somewhere. {s} But do ask somebody else.",
    "Ha! {s} Everybody knows that.",
    "Why do you want to know? {s} Now leave me alone.",
    "According to the Register of Towns: {s} See also the next page.",
    "Buy my maps, two pennies each! {s}",
    "Oh, traveller, sit down by the fire. {s}",
    "Hm. {s}",
    "The old song says it best. {s} So the song goes on.",
    "Quick answer: {s}",
    "You again? {s}",
)
