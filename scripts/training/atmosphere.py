"""Weathers and moods: how a writer names them, and sentences of a story that show them.

Sentences about moods have placeholders for a person in braces, which `made_up.Person.fill` fills.
"""

from __future__ import annotations

from collections.abc import Sequence

WEATHERS: Sequence[tuple[Sequence[str], Sequence[str]]] = (
    (
        ("It is raining.", "It rains.", "Rain.", "It is raining hard.", "Weather: rain.", "Make it rain."),
        (
            "Rain drummed on the roof.",
            "The rain had not stopped since morning.",
            "It was raining hard now.",
            "Rain ran down the windows.",
            "Water dripped from every leaf.",
            "The rain came down in sheets.",
            "Puddles had formed on the ground, and still it rained.",
        ),
    ),
    (
        ("It is snowing.", "It snows.", "Snow.", "Deep snow.", "Weather: snow.", "There is snow everywhere."),
        (
            "Snow fell without a sound.",
            "Large flakes of snow drifted past.",
            "The snow lay deep.",
            "Fresh snow covered everything.",
            "Snow crunched underfoot.",
            "It had begun to snow again.",
        ),
    ),
    (
        (
            "There is a storm.",
            "A storm is coming.",
            "Storm.",
            "Thunder and lightning.",
            "Weather: thunderstorm.",
        ),
        (
            "Thunder rolled in the distance.",
            "The storm was close now.",
            "Lightning lit the sky for a moment.",
            "The storm shook the shutters.",
            "Another flash of lightning, and then thunder.",
        ),
    ),
    (
        ("It is foggy.", "Fog.", "Thick fog.", "Weather: fog.", "There is fog everywhere."),
        (
            "The fog was so thick that the path vanished after a few steps.",
            "Fog hung between the trees.",
            "Everything was gray with fog.",
            "The fog swallowed every sound.",
            "Out of the fog came a sound.",
        ),
    ),
    (
        ("It is windy.", "A strong wind blows.", "Wind.", "Weather: strong wind."),
        (
            "The wind tugged at everything that was loose.",
            "A gust of wind slammed a door.",
            "The wind howled around the corners.",
            "The wind had grown stronger.",
        ),
    ),
    (
        ("It is very hot.", "Heat.", "A heat wave.", "It is the hottest day of the year.", "Weather: hot."),
        (
            "The heat was hard to bear.",
            "It was so hot that nothing moved.",
            "Sweat ran down their faces.",
            "The air shimmered with heat.",
            "Even in the shade it was too hot.",
        ),
    ),
    (
        ("It is bitterly cold.", "It is freezing.", "Cold.", "Weather: frost.", "Winter."),
        (
            "It was bitterly cold.",
            "Breath turned to white clouds.",
            "Ice had formed on the windows.",
            "The cold crept through every crack.",
            "Frost glittered on the ground.",
        ),
    ),
    (
        ("It is night.", "Night.", "It is the middle of the night.", "Time: midnight."),
        (
            "It was the middle of the night.",
            "The moon was the only light.",
            "Everybody else was asleep.",
            "Far away a clock struck midnight.",
            "The night was dark and without stars.",
        ),
    ),
)


MOODS: Sequence[tuple[Sequence[str], Sequence[str]]] = (
    (
        ("sad", "sorrowful", "melancholy"),
        (
            "It was a sad thought, and it would not go away.",
            "There were tears in {her} eyes.",
            "Nothing hurt as much as that silence.",
            "{name} wept and wept.",
            "How lonely it was.",
        ),
    ),
    (
        ("funny", "comic", "silly"),
        (
            "It was so silly that {name} had to laugh.",
            "{name} giggled and could not stop.",
            "Everybody burst out laughing.",
            "It was the worst joke of the year, and {name} loved it.",
            "{She} slipped, sat down in a bucket, and grinned.",
        ),
    ),
    (
        ("eerie", "frightening", "scary", "dark"),
        (
            "Something scratched at the door.",
            "A shiver of fear ran down {her} back.",
            "In the dark somebody breathed.",
            "{name} was too afraid to scream.",
            "The shadows came closer.",
        ),
    ),
    (
        ("angry", "furious"),
        (
            "{name} was furious.",
            "“Enough!” shouted {name}, and slammed the door.",
            "{Her} face was red with anger.",
            "{name} clenched both fists.",
            "{She} was so angry that {her} voice shook.",
        ),
    ),
    (
        ("tender", "warm", "loving", "gentle"),
        (
            "{name} smiled, gently, as one smiles at a child.",
            "It was good to be loved.",
            "{She} took a hand and held it, and it was warm.",
            "“My dear,” said {name} softly.",
            "{name} had never been hugged like that.",
        ),
    ),
    (
        ("calm", "quiet", "peaceful", "dreamy"),
        (
            "It was quiet, and nothing had to be done.",
            "{name} breathed slowly and let the time pass.",
            "A great calm lay over everything.",
            "{She} yawned and closed {her} eyes for a while.",
            "There was no hurry at all.",
        ),
    ),
    (
        ("tense", "dangerous", "breathless"),
        (
            "There was no time to lose.",
            "{name} ran as fast as {she} could.",
            "“Quick!” whispered {name}. “They are coming.”",
            "One wrong step, and it was over.",
            "{Her} heart pounded.",
        ),
    ),
    (
        ("hopeful", "cheerful", "happy"),
        (
            "Now everything would be well.",
            "{name} hummed a tune.",
            "It was a bright morning, and anything could happen.",
            "{name} felt lighter than {she} had for weeks.",
            "For the first time {she} was sure that it would work.",
        ),
    ),
)
