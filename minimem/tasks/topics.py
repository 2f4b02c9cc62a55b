"""Chats that change the subject at known turns, to see whether a memory cuts them there; LoCoMo's schema, and where the subject changes.

    sample = make(n=1, seed=0)[0]
    cuts(sample)                        # {1: [6, 11], …}: in session 1 the subject changes before turns 6 and 11, counted from 0

The first turns of a session (seed 0), and a question about them:

    D1:1   Mateo: The gutter is more than the paint can do, with this tiles.
    D1:2   Priya: The paint is more than the landlord can do, with this wallpaper.
    D1:3   Mateo: 20 July 2024 would suit us all.
    …
    D1:7   Mateo: No interest without the pension, and no pension without a loan.          (a new subject)

    When will it be, with the tiles and the ceiling?       20 July 2024       D1:3

A turn says something about its subject, or nothing at all ("Oh, I see. And then?"). In each piece one turn gives a day, and never names the subject:
it answers the question, which names the subject by words said elsewhere in the piece.

Differs nobody talks like this: the subject changes at once, and no word belongs to two subjects. What fails here fails anywhere; what works here may not.
"""
from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

from .dialogue_people import NAMES, date

SUBJECTS = {
    "garden": "tomato seedling compost spade hedge tulip greenhouse snail lawn rake pumpkin watering weeds bulb fence orchard",
    "kitchen": "saucepan dough oven pepper whisk recipe garlic butter flour pancake stew ladle vinegar noodle grater casserole",
    "music": "violin chorus rhythm concert drummer melody trumpet rehearsal chord ballad piano duet guitar orchestra tempo anthem",
    "sport": "goalkeeper league penalty stadium coach trophy sprint marathon referee tennis racket medal swimmer relay champion tournament",
    "house": "plumber radiator staircase wallpaper ceiling tiles drill paint attic gutter carpet doorbell leak chimney plaster landlord",
    "travel": "passport suitcase ferry hostel airport ticket luggage island platform map visa cabin harbour detour souvenir guidebook",
    "health": "dentist bandage allergy vaccine fever clinic pharmacy knee cough doctor pill bruise migraine surgery stitches nurse",
    "money": "invoice mortgage savings receipt salary pension budget insurance bank loan refund tax accountant interest coupon deposit",
}
ABOUT = ("What about the {0}? It is like the {1}, and not like the {2}.", "I have the {0} and the {1}, but where is the {2}?", "Was the {0} there, or only the {1} and the {2}?",
         "First the {0}, then the {1}, and now the {2}!", "The {0} is more than the {1} can do, with this {2}.", "No {0} without the {1}, and no {1} without a {2}.")
NOTHING = ("Oh, I see. And then?", "That sounds like you.", "Really? Tell me more.", "I had no idea.", "You are right, of course.", "Well, well.")
DAYS = ("Let us do it on {0}, then.", "So it will be {0}.", "{0} would suit us all.", "I have it in my diary for {0}.")


def cuts(sample: dict[str, Any]) -> dict[int, list[int]]:
    """Of each session the turns, counted from 0, with which a new subject begins; the first turn is not named."""
    return sample["cuts"]


def make(n: int = 1, seed: int = 0, length: int = 6, pieces: tuple[int, int] = (3, 6), turns: tuple[int, int] = (3, 9), nothing: float = 0.25) -> list[dict[str, Any]]:
    """``n`` chats of ``length`` sessions, each of ``pieces`` (fewest, most) subjects of ``turns`` (fewest, most) turns; a share ``nothing`` of turns says nothing.

    Raises ValueError if there are fewer than three turns to a piece, or not one chat, session or piece.
    """
    if min(n, length, pieces[0]) < 1 or turns[0] < 3 or pieces[1] > len(SUBJECTS):
        raise ValueError(f"wanted n, length and pieces >= 1, pieces <= {len(SUBJECTS)}, turns >= 3, saw n={n}, length={length}, pieces={pieces}, turns={turns}")
    r = random.Random(seed)
    return [_sample(r, f"topics-{seed}-{i}", length, pieces, turns, nothing) for i in range(n)]


def _sample(r: random.Random, name: str, length: int, pieces: tuple[int, int], turns: tuple[int, int], nothing: float) -> dict[str, Any]:
    people = r.sample(NAMES, 2)
    day = datetime(2023, 1, 1, 12) + timedelta(days=r.randint(0, 300))
    chat: dict[str, Any] = {"speaker_a": people[0], "speaker_b": people[1]}
    where: dict[int, list[int]] = {}
    qa = []
    for s in range(1, length + 1):
        said: list[dict[str, str]] = []
        where[s] = []
        for subject in r.sample(list(SUBJECTS), r.randint(*pieces)):
            if said:
                where[s].append(len(said))
            words, size = SUBJECTS[subject].split(), r.randint(*turns)
            texts, last = [], r.choice(words)
            for i in range(size):
                if i >= 2 and r.random() < nothing:
                    texts.append(r.choice(NOTHING))
                else:
                    new = r.sample([w for w in words if w != last], 2)
                    texts.append(r.choice(ABOUT).format(last, *new))
                    last = new[0]
            at, on = r.randrange(2, size), date(day + timedelta(days=r.randint(1, 400)))
            texts[at] = r.choice(DAYS).format(on)
            used = sorted(w for w in words if any(w in t for t in texts))
            for i, text in enumerate(texts):
                said.append({"speaker": people[(len(said)) % 2], "dia_id": f"D{s}:{len(said) + 1}", "text": text})
                if i == at:
                    qa.append({"question": f"When will it be, with the {' and the '.join(r.sample(used, 2))}?", "answer": on, "evidence": [said[-1]["dia_id"]], "category": 4})
        chat |= {f"session_{s}_date_time": day.strftime("%I:%M %p on ").lstrip("0").lower() + date(day, ", "), f"session_{s}": said}
        day += timedelta(days=r.randint(3, 20))
    return {"sample_id": name, "conversation": chat, "qa": qa, "observation": {}, "session_summary": {}, "event_summary": {}, "cuts": where}
