"""Short worked word problems on which the effect of removing a decoder layer is measured.

They stand for text that a small model handles with ease. Some two hundred completion tokens are enough: three texts
and six choose the same layers of a 30-layer model. `HELD_OUT` never takes part in the choice; the KL that a prune
reports is measured on it.
"""

from typing import NamedTuple


class CalibrationText(NamedTuple):
    """One prompt with the completion whose tokens are scored."""

    prompt: str
    completion: str


CALIBRATION: tuple[CalibrationText, ...] = (
    CalibrationText(
        "A baker fills 6 trays with 12 rolls each. She sells 45 rolls before noon. How many rolls are left?",
        "The baker makes 6 * 12 = 72 rolls in total. She sells 45 of them, so 72 - 45 = 27 rolls are left. "
        "The answer is 27.",
    ),
    CalibrationText(
        "Lena walks 3 kilometers to school and the same way back, five days a week. How far does she walk in 4 weeks?",
        "Each day Lena walks 3 + 3 = 6 kilometers. In one week she walks 6 * 5 = 30 kilometers. "
        "In 4 weeks she walks 30 * 4 = 120 kilometers. The answer is 120.",
    ),
    CalibrationText(
        "A ticket for the zoo costs $14 for adults and half as much for children. What do two adults and three "
        "children pay?",
        "A child's ticket costs 14 / 2 = $7. Two adults pay 2 * 14 = $28 and three children pay 3 * 7 = $21. "
        "Together they pay 28 + 21 = $49. The answer is 49.",
    ),
)

HELD_OUT: tuple[CalibrationText, ...] = (
    CalibrationText(
        "A farmer has 9 rows of apple trees with 7 trees in each row. A storm fells 5 trees. He then plants 12 new "
        "ones. How many trees does he have?",
        "At first the farmer has 9 * 7 = 63 trees. After the storm there are 63 - 5 = 58 trees. "
        "With the 12 new ones he has 58 + 12 = 70 trees. The answer is 70.",
    ),
    CalibrationText(
        "Paul earns $11 an hour. Last week he worked 6 hours a day for 4 days and spent $90. How much did he save?",
        "Paul worked 6 * 4 = 24 hours. He earned 24 * 11 = $264. After spending $90 he saved 264 - 90 = $174. "
        "The answer is 174.",
    ),
    CalibrationText(
        "A class of 28 pupils is divided into teams of 4. Each team needs 3 balls. How many balls are needed?",
        "There are 28 / 4 = 7 teams. Each team needs 3 balls, so 7 * 3 = 21 balls are needed. The answer is 21.",
    ),
    CalibrationText(
        "A bus carries 37 people. At the first stop 9 get off and 4 get on; at the second stop half of the people "
        "get off. How many are still on the bus?",
        "After the first stop there are 37 - 9 + 4 = 32 people on the bus. At the second stop 32 / 2 = 16 people "
        "get off, so 32 - 16 = 16 people are still on the bus. The answer is 16.",
    ),
)
