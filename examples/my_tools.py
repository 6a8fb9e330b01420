"""Three functions of your own, as calltune reads them: type hints become the schema, docstrings the descriptions.

    calltune train --model smollm2-135m --tools examples/my_tools.py --out runs/my-tools

`Examples:` are requests as your users would write them, with a slot for every value. Five or more a function
are best; without any, phrasings are made from the description. Nothing here is called during training.
"""

import datetime
from typing import Literal


def book_table(restaurant: str, people: int, date: datetime.date, outside: bool = False) -> dict:
    """Book a table at a restaurant.

    Args:
        people: number of guests

    Examples:
        - Book a table for {people} at {restaurant} on {date}.
        - We are {people} and want to eat at {restaurant} on {date}, outside if possible. => outside=true
        - Reserve a table at {restaurant} for {people} people on {date}
        - Can you get us a table at {restaurant} on {date}? There will be {people} of us.
        - I need a table outside at {restaurant}, {date}, {people} people. => outside=true
        - Dinner at {restaurant} on {date} for {people}, please.
        - Book a table at {restaurant} on {date}.
    """
    return {"booked": restaurant, "people": people, "date": str(date), "outside": outside}


def order_status(order_id: int) -> dict:
    """Look up the status of an order.

    Examples:
        - Where is my order {order_id}?
        - What's the status of order {order_id}?
        - Has {order_id} been shipped yet?
        - I ordered something last week, number {order_id}, and it is not here.
        - Track {order_id} for me
    """
    return {"order_id": order_id, "status": ("packed", "shipped", "delivered")[order_id % 3]}


def open_ticket(topic: Literal["billing", "delivery", "returns"], email: str) -> dict:
    """Open a support ticket.

    Args:
        email: where to answer

    Examples:
        - Open a {topic} ticket, my mail is {email}.
        - I have a {topic} problem, please write to {email}
        - Can support contact {email} about {topic}?
        - New ticket about {topic} for {email}
        - {email} needs help with {topic}.
        - Something is wrong with my {topic}, please get back to me at {email}.
    """
    return {"opened": topic, "answer_to": email}
