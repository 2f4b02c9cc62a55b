"""What the people of `dialogue` say, and what can be asked about it: templates with {n} the speaker, {o} the friend, {v} a value."""
from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

MONTHS = "January February March April May June July August September October November December".split()
NAMES = ("Ada", "Bruno", "Chiara", "Dilan", "Emeka", "Farah", "Goran", "Hanna", "Ivo", "Jun", "Kofi", "Lena", "Mateo", "Nadia", "Oskar", "Priya")

# one value at a time, replaced later: values, first said, said when it changes, third person, asked now, asked when, asked before, echo, mentioned in passing
STATES = {
    "home": (("Leeds", "Porto", "Bergen", "Kyoto", "Lima", "Tucson", "Galway", "Ghent"),
             ("I live in {v}, in a small flat under the roof, and the neighbours already know me by name",
              "my flat in {v} is tiny but the kitchen gets the sun until noon"),
             ("I packed up everything and moved to {v}, the boxes are still all over the floor",
              "we got the keys to a place in {v} and I carried the last chair up the stairs at midnight"),
             "{n} lives in {v}.", ("Where does {n} live now?", "Which town is home for {n} at the moment?"),
             "When did {n} move to {v}?", "Where was {n} living before moving to {v}?", "a flat in {v}",
             ("my cousin sent me a postcard from {v} and the old harbour looks lovely", "there was a train to {v} on the other platform, completely full")),
    "work": (("nurse", "baker", "welder", "translator", "florist", "paramedic", "librarian", "carpenter"),
             ("work keeps me busy, being a {v} means early mornings and sore feet", "I have been a {v} for some years and the pay is fair"),
             ("I handed in my notice and started as a {v} on Monday", "the old company let me go, so I retrained and now I earn my bread as a {v}"),
             "{n} works as a {v}.", ("What is {n}'s job these days?", "How does {n} earn a living now?"),
             "When did {n} start working as a {v}?", "What was {n}'s job before becoming a {v}?", "your work as a {v}",
             ("I watched a long documentary about a {v} on television", "my neighbour wants to be a {v} but hates getting up early")),
    "ride": (("tandem", "scooter", "moped", "cargo bike", "motorcycle", "rowing boat", "camper van", "skateboard"),
             ("I take my {v} to town every morning, rain or shine", "the {v} is still how I get everywhere, even with the shopping"),
             ("I sold the old thing and bought a {v}, it still smells new", "a {v} is what I use to get around since the other one was stolen"),
             "{n} gets around by {v}.", ("How does {n} get around now?", "What does {n} use to get to town?"),
             "When did {n} buy the {v}?", "How did {n} get around before the {v}?", "the {v}",
             ("somebody left a {v} in front of our door and nobody knows whose it is", "a {v} nearly hit me at the crossing")),
    "language": (("Finnish", "Swahili", "Korean", "Greek", "Welsh", "Basque", "Turkish", "Polish"),
                 ("I am learning {v} with an evening class, the grammar is wild", "twice a week I study {v} at the community college"),
                 ("I dropped the old course, now it is {v} that I study instead", "my teacher left, so I switched to {v} and began with the alphabet"),
                 "{n} is learning {v}.", ("Which language is {n} learning now?", "What does {n} study in the evenings?"),
                 "When did {n} switch to {v}?", "Which language did {n} learn before {v}?", "{v} lessons",
                 ("the waiter spoke {v} to me and I just nodded", "they read the news in {v} on that radio station")),
    "dish": (("lentil soup", "mushroom risotto", "fish pie", "pumpkin curry", "dumplings", "shakshuka", "ramen", "moussaka"),
             ("nothing beats {v} on a cold evening, it is my favourite dish", "I could eat {v} every day and never get tired of it"),
             ("my taste has changed, I now prefer {v} to anything else", "forget what I said about food, {v} is the best meal there is"),
             "{n}'s favourite dish is {v}.", ("What is {n}'s favourite meal now?", "Which food does {n} like best?"),
             "When did {n} say that {v} had become the favourite?", "What was {n}'s favourite food before {v}?", "{v}",
             ("the canteen served {v} on Monday and there was a long line", "I burnt the {v} so badly that the pan is ruined")),
}

# several values over time: values, said, third person, asked, asked of both, echo, mentioned in passing
LISTS = {
    "books": (("The Glass Orchard", "Salt Roads", "A Winter of Owls", "The Ninth Lighthouse", "Paper Wolves", "Quiet Machines", "The Cartographer's Son"),
              ("I finished reading {v} last night and could not put it down", "{v} kept me awake until three, what a novel"),
              "{n} read {v}.", "Which books has {n} read?", "Which book have both {n} and {o} read?", "{v}",
              ("the shop at the corner has {v} in the window, wrapped in ribbon",)),
    "trips": (("Iceland", "Morocco", "Vietnam", "Georgia", "Chile", "Estonia", "Jordan"),
              ("we spent ten days in {v}, hiking and eating far too much", "I am back from {v}, the mountains there are something else"),
              "{n} travelled to {v}.", "Which countries has {n} visited?", "Which country have both {n} and {o} travelled to?", "{v}",
              ("a colleague keeps talking about {v} at lunch",)),
    "animals": (("greyhound", "parrot", "tortoise", "hedgehog", "goat", "ferret", "pony"),
                ("we took in a {v} from the shelter and the children are over the moon", "a {v} lives with us since the weekend and sleeps in the laundry basket"),
                "{n} adopted a {v}.", "What pets does {n} have?", "Which kind of pet do both {n} and {o} keep?", "a {v}",
                ("we saw a {v} in the park that had escaped from somewhere",)),
    "instruments": (("cello", "banjo", "oboe", "accordion", "harp", "trombone", "ukulele"),
                    ("I picked up a second-hand {v} and practise every night", "my first lesson on the {v} was a disaster, but I love the sound"),
                    "{n} plays the {v}.", "Which instruments does {n} play?", "Which instrument do both {n} and {o} play?", "the {v}",
                    ("someone in our street practises the {v} with the window open",)),
    "sports": (("fencing", "bouldering", "curling", "archery", "sailing", "judo", "orienteering"),
               ("I tried {v} for the first time and my arms hurt in places I did not know", "there is a {v} club near us and I signed up for the season"),
               "{n} took up {v}.", "What sports has {n} taken up?", "Which sport do both {n} and {o} do?", "{v}",
               ("they showed the {v} finals in the bar and nobody watched",)),
    "helping": (("food bank", "animal rescue", "repair café", "night shelter", "reading room", "community garden", "lifeboat station"),
                ("I spent the afternoon helping at the {v} and met wonderful people", "they needed hands at the {v}, so I stayed until closing"),
                "{n} volunteered at the {v}.", "Where has {n} volunteered?", "Where have both {n} and {o} volunteered?", "the {v}",
                ("the {v} is collecting old blankets again",)),
}

# told with a relative date: said, third person, asked, echo, mentioned in passing
EVENTS = (
    ("{when} I ran my first half marathon and my legs still ache", "{n} ran a half marathon.", ("When did {n} run a half marathon?", "On what date did {n} finish the long race?"), "the half marathon", "they closed the bridge for some half marathon and I had to walk"),
    ("{when} I broke my wrist falling off a ladder", "{n} broke a wrist.", ("When did {n} break a wrist?", "What day was {n}'s accident with the ladder?"), "your wrist", "my watch leaves a red mark on my wrist"),
    ("{when} my brother got married in a barn full of candles", "{n}'s brother married.", ("When was the wedding of {n}'s brother?", "On which date did {n}'s brother marry?"), "the wedding", "we passed a wedding on the steps of the town hall"),
    ("{when} I passed my driving test on the third attempt", "{n} passed the driving test.", ("When did {n} pass the driving test?", "On what date did {n} get a driving licence?"), "the driving test", "the driving in this city gets worse every year"),
    ("{when} I sold a painting to a complete stranger", "{n} sold a painting.", ("When did {n} sell a painting?", "On what date did a stranger buy {n}'s picture?"), "your painting", "I am painting the hallway, white again"),
    ("{when} the storm took half of our roof and the rain came in", "A storm damaged {n}'s roof.", ("When did {n} lose the roof?", "On which day did the storm damage {n}'s house?"), "the roof", "they say another storm is on its way"),
    ("{when} my tomatoes won a prize at the village show", "{n}'s tomatoes won a prize.", ("When did {n}'s tomatoes win a prize?", "On what day was {n} rewarded for gardening?"), "the prize", "tomatoes cost a fortune at the market"),
    ("{when} I gave a talk in front of two hundred people", "{n} gave a talk.", ("When did {n} give a talk?", "On what date did {n} speak to a large audience?"), "the talk", "we should talk about the bill some time"),
    ("{when} I lost my wallet and a child brought it back", "{n} lost a wallet.", ("When did {n} lose a wallet?", "On which day did a child return something to {n}?"), "the wallet", "I bought a new wallet, the zip of the old one was gone"),
    ("{when} we camped by the lake and a fox stole our breakfast", "{n} camped by the lake.", ("When did {n} camp by the lake?", "On what date did a fox rob {n}?"), "camping", "the lake is frozen at the edges now"),
    ("{when} I went to a pottery workshop and made a crooked bowl", "{n} attended a pottery workshop.", ("When did {n} go to a pottery workshop?", "On which day did {n} try working with clay?"), "the pottery workshop", "my bowl of cereal fell on the floor this morning"),
    ("{when} I gave blood for the first time and nearly fainted", "{n} gave blood.", ("When did {n} give blood?", "On what date was {n} a blood donor?"), "giving blood", "the nurse could not find my blood pressure at first"),
)

# one turn, never changed: values, said, third person, asked, echo
SINGLES = (
    (("Ingrid", "Samira", "Paula", "Wanda"), "my sister {v} called from the airport and we talked for an hour", "{n}'s sister is {v}.", "What is the name of {n}'s sister?", "your sister"),
    (("farm", "houseboat", "lighthouse", "boarding school"), "I grew up on a {v}, so silence never bothers me", "{n} grew up on a {v}.", "Where did {n} spend the childhood?", "growing up like that"),
    (("violet", "amber", "turquoise", "scarlet"), "we painted the bedroom {v} and it finally feels like mine", "{n}'s bedroom is {v}.", "Which colour are the walls of {n}'s bedroom?", "the bedroom"),
    (("grandmother", "uncle", "godfather", "old teacher"), "the silver ring I wear was a present from my {v}", "{n} got a silver ring from the {v}.", "Who gave {n} the ring?", "the ring"),
    (("cinnamon", "lemon", "almond", "poppy seed"), "for my birthday I always bake a {v} cake, it is a rule in our family", "{n} bakes a {v} cake for birthdays.", "What kind of cake does {n} bake every birthday?", "that cake"),
    (("tinnitus", "migraine", "hay fever", "asthma"), "the {v} is back, so I stay inside with the curtains closed", "{n} suffers from {v}.", "Which health problem does {n} have?", "feeling ill"),
)

# common sense needed: said, third person, asked, answer
INFERENCES = (
    ("I swell up like a balloon if I eat shrimp or mussels", "{n} is allergic to shellfish.", "Would {n} enjoy a seafood restaurant?", "Likely no"),
    ("heights make my knees shake, I cannot even stand on a chair", "{n} is afraid of heights.", "Would {n} like a ride in a hot-air balloon?", "Likely no"),
    ("I gave up flying and repair everything before I buy anything", "{n} avoids flying and repairs things.", "Does {n} care about the environment?", "Likely yes"),
    ("I sleep best when I hear waves, the sea calms me down at once", "{n} is calmed by the sea.", "Would {n} rather spend a holiday on the coast or in the mountains?", "The coast"),
    ("I count every coin twice before it leaves my purse", "{n} is careful with money.", "Is {n} likely to buy an expensive watch?", "Likely no"),
    ("crowds wear me out, after an hour I need a quiet room", "{n} tires in crowds.", "Would {n} enjoy a big music festival?", "Likely no"),
)

WHEN = (("yesterday", 1), ("the day before yesterday", 2), ("three days ago", 3), ("a week ago", 7), ("two weeks ago", 14))
OPENINGS = ("", "", "", "honestly,", "you won't believe it, {o}:", "guess what,", "so,", "by the way, {o},", "well,", "oh, and", "since you ask,", "big news:")
TAILS = (
    "", "", "", "It took me a long time to get used to the idea, but now I would not want it any other way.",
    "My family thinks I am crazy, and maybe they are right about that.", "I took a lot of pictures, remind me to show them to you when we meet.",
    "It reminded me of when we were younger and had time for such things.", "Life is full of surprises, and this one made my whole month.",
    "I know it sounds small, but for me it was a big step.", "You should have seen the faces of the people around me.",
    "I am still learning how to talk about it without laughing.", "Now I only need to find the time for everything else on my list.",
    "Anyway, it keeps me going, and that is what matters these days.", "My friends at work keep asking me about it.",
)
REACTIONS = (
    "Wow, {n}, {echo}! I did not expect that.", "{echo}? Tell me more, {n}!", "I keep thinking about {echo}, {n}. How are things now?", "Oh, {echo}. I see, {n}.",
    "Wow, {n}!", "Really? I had no idea.", "Well, well, {n}.", "Haha, that is so you.", "Take care of yourself, {n}.",
    "Thanks for telling me, {n}. What happened next?", "Sounds like a lot is going on in your life.",
)
SMALL_TALK = (
    ("It has been raining here for days, I can hardly remember what the sun looks like.", "Same here. I dream of a warm beach and a cold drink."),
    ("Do you ever feel that the week is over before it started?", "All the time, {n}. I blame the meetings."),
    ("I cleaned the whole house and found three umbrellas that are not mine.", "Keep them, you will need them, and nobody ever asks for an umbrella back."),
    ("My phone keeps dying at noon, I think I need a new one.", "Try turning it off at night, that helped mine for a while."),
    ("I have started getting up earlier to have an hour for myself.", "That's brave. My mornings are a race between coffee and the bus."),
    ("Have you seen anything good lately? I need a film for the weekend.", "I fell asleep in the last one, so I am no help."),
    ("The people next door are having a party again.", "Join them! You can't sleep anyway."),
    ("I really need a holiday, my head is full.", "You do, {n}. Close the laptop and go somewhere without a plan."),
    ("What do you do when you can't sleep?", "I count the things I forgot to do. It doesn't help."),
    ("I had to wait two hours at the doctor's, and it was nothing.", "Better that than something. At least you could read."),
    ("The market was so crowded that I went home with only an onion.", "An onion is a start. Soup?"),
    ("We should really meet in person again.", "Yes! Pick a day, {n}, and this time I will not cancel."),
)
GREETINGS = (
    ("Hey {o}! Long time no talk, how have you been?", "Hey {n}! All good here, just tired. What's new with you?"),
    ("Hi {o}, what have you been up to?", "Not much, {n}, the usual. And you?"),
)
GOODBYES = (("I have to run, talk soon, {o}!", "Take care, {n}!"), ("It's late. Good night, {o}.", "Sleep well, {n}, it was good to talk."))


class Fact(NamedTuple):
    """One thing somebody says once."""
    who: str
    text: str
    told: str          # the same in the third person
    echo: str          # what the other may pick up


Ask = tuple[str, str, list[Fact], int]             # question, answer, evidence, category


def date(day: datetime, comma: str = " ") -> str:
    """8 May 2023, in English whatever the locale."""
    return f"{day.day} {MONTHS[day.month - 1]}{comma}{day.year}"


def states(r: random.Random, people: list[str], days: list[datetime], plan: list[list[Fact]], passing: list[str]) -> Iterator[Ask]:
    """Facts that hold one at a time: asked now, when they changed, and what was before."""
    for values, first, again, told, now, when, before, echo, near in STATES.values():
        values = r.sample(values, 6)
        for n, mine in zip(people, (values[:3], values[3:])):
            mine = mine[: r.randint(1, 3)]
            at = sorted(r.sample(range(len(days)), len(mine)))
            facts = [Fact(n, r.choice(again if i else first).format(v=v), told.format(n=n, v=v), echo.format(v=v)) for i, v in enumerate(mine)]
            passing += [r.choice(near).format(v=v) for v in mine]
            for i, f in zip(at, facts):
                plan[i].append(f)
            yield r.choice(now).format(n=n), mine[-1], facts[-1:], 4
            if len(mine) > 1:
                yield when.format(n=n, v=mine[-1]), date(days[at[-1]]), facts[-1:], 2
                yield before.format(n=n, v=mine[-1]), mine[-2], facts[-2:], 1


def lists(r: random.Random, people: list[str], days: list[datetime], plan: list[list[Fact]], passing: list[str]) -> Iterator[Ask]:
    """Facts that add up: asked for all of them, and for the one that both share."""
    common = r.choice(sorted(LISTS))
    for slot, (values, say, told, asked, both, echo, near) in LISTS.items():
        shared, *values = r.sample(values, 7)
        facts = {n: [Fact(n, r.choice(say).format(v=v), told.format(n=n, v=v), echo.format(v=v))
                     for v in [*([shared] if slot == common else []), *mine[: r.randint(2, 3)]]]
                 for n, mine in zip(people, (values[:3], values[3:]))}
        passing += [r.choice(near).format(v=v) for v in values[:4]]
        for n, mine in facts.items():
            for i, f in zip(r.sample(range(len(days)), len(mine)), mine):
                plan[i].append(f)
            yield asked.format(n=n), ", ".join(f.echo.removeprefix("a ").removeprefix("the ") for f in mine), mine, 1
        if slot == common:
            yield both.format(n=people[0], o=people[1]), shared, [facts[n][0] for n in people], 1


def events(r: random.Random, people: list[str], days: list[datetime], plan: list[list[Fact]], passing: list[str]) -> Iterator[Ask]:
    """Facts told with a relative date: asked when; and asked of the wrong person."""
    drawn = r.sample(EVENTS, 11)
    for n, o, mine in zip(people, people[::-1], (drawn[:7], drawn[4:])):
        for event in mine:
            text, told, asked, echo, near = event
            when, ago = r.choice(WHEN)
            i = r.randrange(len(days))
            fact = Fact(n, text.format(when=when), told.format(n=n), echo)
            plan[i].append(fact)
            passing.append(near)
            yield r.choice(asked).format(n=n), date(days[i] - timedelta(days=ago)), [fact], 2
            if event not in drawn[4:7] and r.random() < 0.5:
                yield r.choice(asked).format(n=o), date(days[i] - timedelta(days=ago)), [fact], 5


def singles(r: random.Random, people: list[str], days: list[datetime], plan: list[list[Fact]], passing: list[str]) -> Iterator[Ask]:
    """Facts told once and never changed."""
    for values, say, told, asked, echo in SINGLES:
        for n, v in zip(people, r.sample(values, 2)):
            fact = Fact(n, say.format(v=v), told.format(n=n, v=v), echo)
            r.choice(plan).append(fact)
            yield asked.format(n=n), v, [fact], 4


def inferences(r: random.Random, people: list[str], days: list[datetime], plan: list[list[Fact]], passing: list[str]) -> Iterator[Ask]:
    """Facts from which the answer follows with common sense."""
    for n, (say, told, asked, answer) in zip(people * 2, r.sample(INFERENCES, 4)):
        fact = Fact(n, say, told.format(n=n), "that")
        r.choice(plan).append(fact)
        yield asked.format(n=n), answer, [fact], 3


PLANS = (states, lists, events, singles, inferences)
