"""What a kitchen tablet can do: timers, oven, pantry, shopping list, recipes and the plan of meals."""

import datetime
from typing import Literal

Unit = Literal["g", "kg", "ml", "l", "pieces"]


def start_timer(minutes: int, label: str | None = None) -> dict:
    """Start a kitchen timer.

    Args:
        minutes: how long it runs
        label: the food that it is for

    Examples:
        - Timer {minutes} minutes
        - Set a {minutes} minute timer
        - {minutes} minutes for the {label}
        - Start a timer for the {label}, {minutes} min
        - Timer for {label}: {minutes} minutes please
    """
    return {"timer": label or "timer", "seconds": minutes * 60}


def preheat_oven(degrees: int, ready_at: datetime.time | None = None, fan: bool = False) -> dict:
    """Heat up the oven.

    Args:
        degrees: the temperature in degrees Celsius
        ready_at: when it has to be hot; now if not given
        fan: with circulating air

    Examples:
        - Preheat the oven to {degrees}
        - Oven on {degrees} degrees
        - Oven to {degrees}, ready at {ready_at}
        - Preheat to {degrees} °C with the fan => fan=true
    """
    return {"degrees": degrees, "ready_at": ready_at, "fan": fan}


def check_pantry(item: str) -> str:
    """Look up how much of an item is left in the pantry."""
    return f"{len(item) * 50} g"


def add_to_pantry(item: str, amount: float, unit: Unit, best_before: datetime.date | None = None) -> dict:
    """Add something that was bought to the pantry.

    Args:
        unit: pieces for what is counted

    Examples:
        - Add {amount} {unit} of {item} to the pantry
        - I bought {amount} {unit} {item}
        - {amount} {unit} {item}, best before {best_before}
        - Put {amount} {unit} of {item} in the pantry
        - Pantry: plus {amount} {unit} {item}
    """
    return {"item": item, "change": amount, "unit": unit, "best_before": best_before}


def use_from_pantry(item: str, amount: float, unit: Unit) -> dict:
    """Take something that was used off the pantry's stock.

    Args:
        unit: pieces for what is counted

    Examples:
        - I used {amount} {unit} of {item}
        - Take {amount} {unit} {item} out of the pantry
        - {amount} {unit} of {item} used
        - Pantry: minus {amount} {unit} {item}
    """
    return {"item": item, "change": -amount, "unit": unit}


def add_to_shopping_list(items: list[str], shop: str | None = None) -> int:
    """Write items on the shopping list.

    Examples:
        - Add {items} to the shopping list
        - We need {items}
        - Put {items} on the list
        - Buy {items} at {shop}
        - Shopping list: {items}
        - {items} from {shop}
    """
    return len(items)


def find_recipes(ingredients: list[str], max_minutes: int | None = None, vegetarian: bool = False) -> list[str]:
    """Find recipes that use the given ingredients.

    Args:
        max_minutes: how long the cooking may take at most

    Examples:
        - Recipes with {ingredients}
        - What can I make from {ingredients}?
        - Find something with {ingredients} in under {max_minutes} minutes
        - Vegetarian recipes with {ingredients} => vegetarian=true
        - Show me recipes for {ingredients}
    """
    return [f"{name} soup" for name in ingredients]


def scale_recipe(recipe: str, servings: int) -> dict:
    """Work out the amounts of a recipe for a number of servings.

    Examples:
        - {recipe} for {servings} people
        - Scale {recipe} to {servings} servings
        - Amounts for {servings} servings of {recipe}
        - Make {recipe} for {servings}
    """
    return {"recipe": recipe, "factor": servings / 4}


def plan_meal(
    recipe: str, date: datetime.date, meal: Literal["breakfast", "lunch", "dinner"], people: int = 2
) -> str:
    """Put a recipe on the meal plan.

    Examples:
        - {recipe} for {meal} on {date}
        - Plan {recipe} for {date}, {meal}
        - On {date} we have {recipe} for {meal}
        - {meal} on {date}: {recipe} for {people} people
        - Put {recipe} on the plan, {date}, {meal}, {people} people
    """
    return f"{date} {meal}: {recipe} for {people}"
