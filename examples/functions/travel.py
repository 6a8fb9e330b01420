"""Trips and parcels of a small travel and courier office. The functions answer with made-up facts."""

import datetime
from typing import Literal


def search_trains(origin: str, destination: str, date: datetime.date, travellers: int = 1) -> list[str]:
    """Search trains between two cities on a date.

    Examples:
        - Trains from {origin} to {destination} on {date}?
        - I want to go to {destination} from {origin} on {date}
        - How do I get from {origin} to {destination} by train on {date}?
        - We are {travellers} and go from {origin} to {destination} on {date}.
        - Find a train to {destination} on {date}, starting in {origin}
        - Train {origin} {destination} {date}, {travellers} people
    """
    return ["08:12", "10:12"]


def hotel_rooms(city: str, nights: int, stars: Literal[3, 4, 5] = 3) -> list[str]:
    """Look for hotel rooms in a city.

    Examples:
        - I need a hotel in {city} for {nights} nights.
        - Where can I sleep in {city}? {nights} nights
        - A {stars} star hotel in {city} for {nights} nights, please.
        - {nights} nights in {city}, something with {stars} stars
        - Look for a room in {city}, we stay {nights} nights
        - Hotels in {city} for {nights} nights?
    """
    return ["Central", "Garden"]


def track_parcel(tracking_number: str) -> str:
    """Tell where a parcel is.

    Examples:
        - Where is parcel {tracking_number}?
        - Track {tracking_number}
        - Has {tracking_number} arrived yet?
        - Any news about my package {tracking_number}?
        - I'm still waiting for {tracking_number}, where is it?
    """
    return "in the van"


def shipping_price(country: str, weight_kg: float, express: bool = False) -> float:
    """Tell what it costs to send a parcel to a country.

    Examples:
        - What does it cost to send {weight_kg} kg to {country}?
        - Price for a parcel of {weight_kg} kilos to {country}, please
        - How much is {weight_kg} kg to {country} by express? => express=true
        - I have to send something to {country}, it weighs {weight_kg} kg. What is the price?
        - It has to get to {country} fast, {weight_kg} kg. How much? => express=true
        - {weight_kg} kg, {country}, how expensive?
    """
    return 9.5


def book_pickup(street: str, date: datetime.date, parcels: int = 1) -> dict:
    """Let a courier pick up parcels at a street address.

    Examples:
        - Pick up {parcels} parcels at {street} on {date}.
        - Please collect a parcel from {street} on {date}
        - Send a courier to {street} on {date}, there are {parcels} parcels.
        - Can somebody fetch my package on {date}? I live at {street}.
        - {parcels} boxes are waiting at {street}, come on {date} please
    """
    return {"pickup": street, "date": str(date), "parcels": parcels}


def change_address(tracking_number: str, street: str, city: str) -> dict:
    """Send a parcel that is on its way to another address."""
    return {"tracking_number": tracking_number, "to": f"{street}, {city}"}
