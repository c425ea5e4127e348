"""The English words of arithmetic in prose, for `pipelines.verifiers.expressions`."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SCALES = _words("dozen dozens hundred hundreds thousand thousands million millions billion billions")
#: behind a number they compute with it
BINDS_BEHIND = _words("times plus minus squared cubed divided multiplied") | _SCALES
#: before a number they compute with it
BINDS_BEFORE = _words("than twice half double triple increased decreased reduced") | BINDS_BEHIND
#: they compute in a sentence and are no unit
COMPUTING = _words("of by and") | BINDS_BEFORE
#: words that multiply before "of"
SHARES = _words(
    "half third thirds quarter quarters fourth fourths fifth fifths sixth eighth tenth percent twice double triple"
)
#: words that number what follows: day 1
LABELS = _words("day week month year step part number room group class question problem section chapter grade")
#: words of a clause: behind a number they are no unit
CLAUSE = _words(
    "because since so then if when while but or is are was were be has have had gives give makes make equals gets get"
    " costs earns on for in at from with to the he she they it we you i that which this his her their its"
)
_SIZES = {
    "money": "cent cents ¢ dime dimes quarter quarters nickel nickels penny pennies",
    "time": "second seconds minute minutes hour hours day days week weeks month months year years hr hrs min mins",
    "length": "inch inches foot feet yard yards mile miles mm cm m km meter meters kilometer kilometers centimeter"
    " centimeters",
    "weight": "ounce ounces pound pounds lb lbs oz ton tons gram grams kg kilogram kilograms g mg",
    "volume": "cup cups pint pints quart quarts gallon gallons ml liter liters l tablespoon tablespoons teaspoon"
    " teaspoons",
}
#: unit -> what it measures: an equation between two sizes of one thing converts, "$1 / 2 = 50 cents"
MEASURES = {unit: measure for measure, units in _SIZES.items() for unit in units.split()}
_TIMES = (2, 3, 4, 5, 7, 8, 10, 12, 16, 20, 24, 25, 30, 36, 52, 60, 100, 365, 1000, 1440, 1760, 2000, 3600, 5280)
#: how many of one measure make another
FACTORS = (*map(float, _TIMES), *(1 / times for times in _TIMES))
