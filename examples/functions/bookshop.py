"""The back office of a small bookshop. Nothing is stored: the functions show what an own shop would connect."""

import datetime
from typing import Literal


def stock_of(title: str) -> int:
    """Tell how many copies of a book are in stock.

    Examples:
        - Do we have {title}?
        - How many copies of {title} are left?
        - Is {title} in stock?
        - Check the shelf for {title}
        - Somebody asks for {title}, do we have it?
        - Stock of {title}
    """
    return len(title) % 5


def reserve_book(title: str, customer: str, copies: int = 1) -> dict:
    """Put copies of a book aside for a customer.

    Examples:
        - Put {title} aside for {customer}.
        - {customer} would like {title}, keep one please
        - Reserve {copies} copies of {title} for {customer}.
        - Hold {title} for {customer}
        - {customer} wants {copies} of {title}, please set them aside.
        - Keep {copies} copies of {title} back for {customer}
        - Reserve {title} under the name {customer}.
    """
    return {"title": title, "customer": customer, "copies": copies}


def order_from_publisher(isbn: str, quantity: int) -> dict:
    """Order copies of a book from its publisher.

    Args:
        isbn: ISBN-13 without dashes

    Examples:
        - Order {quantity} of {isbn}.
        - We need {quantity} more copies of {isbn}
        - Get {quantity} pieces of ISBN {isbn} from the publisher, please.
        - {isbn} is nearly sold out, reorder {quantity}
        - Reorder {isbn}, {quantity} copies.
    """
    return {"isbn": isbn, "quantity": quantity}


def set_price(isbn: str, price: float) -> dict:
    """Change the price of a book, in euros.

    Examples:
        - {isbn} costs {price} from now on.
        - Set the price of {isbn} to {price} euros
        - Make {isbn} {price} €.
        - Change {isbn} to {price}
        - The new price of {isbn} is {price} euros, please update it.
    """
    return {"isbn": isbn, "price": price}


def refund_order(order_id: int, reason: Literal["damaged", "late", "wrong item", "changed mind"]) -> dict:
    """Pay an order back to the customer.

    Examples:
        - Order {order_id} arrived damaged, give the money back. => reason=damaged
        - Refund {order_id}, the reason is {reason}.
        - Please pay back {order_id}, it came far too late. => reason=late
        - The customer of {order_id} got the wrong book, refund it. => reason="wrong item"
        - {order_id}: customer doesn't want it any more, money back. => reason="changed mind"
        - Refund order {order_id} ({reason})
        - Money back for {order_id}, the cover was torn. => reason=damaged
        - {order_id} took three weeks, refund them please => reason=late
    """
    return {"refunded": order_id, "reason": reason}


def sales_report(start: datetime.date, end: datetime.date) -> dict:
    """Show the sales from a first to a last day.

    Examples:
        - How were sales from {start} to {end}?
        - Sales between {start} and {end}, please.
        - What did we sell from {start} until {end}?
        - Show me the turnover for {start} to {end}
        - Report for {start} - {end}
    """
    return {"from": str(start), "to": str(end), "books": 120}


def subscribe(email: str, genre: Literal["crime", "fantasy", "history", "children", "poetry"]) -> dict:
    """Sign somebody up for the newsletter about a genre.

    Examples:
        - Sign {email} up for the {genre} newsletter.
        - {email} wants news about {genre} books
        - Add {email} to the {genre} list, please.
        - Please send {genre} news to {email}
        - New subscriber for {genre}: {email}
    """
    return {"email": email, "genre": genre}
