"""A house and its energy, as functions that a small model can call. They only say what they would do."""

import datetime
from typing import Literal

Appliance = Literal["dishwasher", "washing machine", "dryer", "water heater", "heat pump"]


def set_heating(room: str, degrees: float) -> dict:
    """Set the temperature of a room.

    Args:
        degrees: degrees Celsius

    Examples:
        - Make the {room} {degrees} degrees.
        - It's freezing in the {room}, put it on {degrees} please
        - Heat the {room} to {degrees}.
        - Can we have {degrees} degrees in the {room}?
        - I want the {room} at {degrees}
        - Turn the heating in the {room} down to {degrees}
    """
    return {"room": room, "degrees": degrees}


def run_appliance(appliance: Appliance, at: datetime.time | None = None) -> dict:
    """Start an appliance, at once or at a time of the day.

    Examples:
        - Start the {appliance}.
        - Can you turn the {appliance} on at {at}?
        - {appliance} on, please
        - Let the {appliance} run at {at}, power is cheap then.
        - I filled the {appliance}, it can start now.
        - Run the {appliance} tonight at {at}
        - Switch on the {appliance}
    """
    return {"started": appliance, "at": str(at)}


def charge_car(percent: int, ready_at: datetime.time) -> dict:
    """Charge the car up to a percentage, to be ready at a time.

    Examples:
        - Charge the car to {percent} percent by {ready_at}.
        - I leave at {ready_at} and need {percent}% in the car
        - The car should be at {percent} % at {ready_at}
        - Have the battery of the car {percent} percent full by {ready_at}, please.
        - Make sure the car has {percent}% when I drive off at {ready_at}.
    """
    return {"percent": percent, "ready_at": str(ready_at)}


def energy_used(period: Literal["today", "yesterday", "this week", "this month", "this year"]) -> float:
    """Tell how much electricity the house used in a period, in kWh.

    Examples:
        - How much power did we use {period}?
        - What is our consumption {period}?
        - Electricity {period}?
        - Did we use a lot of energy {period}?
        - kWh {period}, please.
        - Show me what the house used {period}
    """
    return 12.5


def solar_forecast(day: Literal["today", "tomorrow"]) -> float:
    """Forecast what the solar panels will make, in kWh.

    Examples:
        - How much sun do the panels get {day}?
        - What will the panels make {day}?
        - Solar forecast for {day}
        - Is it worth waiting for solar power {day}?
        - How many kWh can I expect from the roof {day}?
    """
    return 18.0


def set_blinds(room: str, percent_open: int) -> dict:
    """Move the blinds of a room.

    Args:
        percent_open: 0 is closed, 100 is fully open

    Examples:
        - Open the blinds in the {room}. => percent_open=100
        - Close the {room} blinds => percent_open=0
        - Blinds in the {room} to {percent_open} percent, please.
        - It is too bright in the {room}, shut the blinds. => percent_open=0
        - Set the {room} blinds to {percent_open}%
        - Let some light into the {room}, blinds half open. => percent_open=50
        - Open the {room} blinds {percent_open} percent
        - Could you pull the blinds in the {room} all the way up? => percent_open=100
    """
    return {"room": room, "percent_open": percent_open}
