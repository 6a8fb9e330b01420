"""Types for the tests of functions."""

from dataclasses import dataclass
from enum import Enum


class Unit(Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


@dataclass
class Point:
    x: float
    y: float = 0.0
