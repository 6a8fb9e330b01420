"""The front desk of a fitness studio: classes, memberships, payments, lockers."""

import datetime
from typing import Literal


def book_class(course: str, member: str, date: datetime.date, places: int = 1) -> dict:
    """Book a member into a class.

    Args:
        places: the member and the guests that come along

    Examples:
        - Book {member} into {course} on {date}
        - {member} wants to do {course} on {date}
        - {places} places in {course} on {date} for {member}
        - Sign {member} up for {course}, {date}
        - {course} {date}: {member}, {places} places
        - Reserve {course} on {date} for {member}
    """
    return {"booking": f"{course}-{date}", "member": member, "places": places}


def cancel_booking(course: str, member: str, date: datetime.date) -> bool:
    """Cancel a member's place in a class.

    Examples:
        - Cancel {course} on {date} for {member}
        - {member} cancels {course} on {date}
        - Remove {member} from {course} on {date}
        - {member} is not coming to {course} on {date}
    """
    return True


def add_class(course: str, trainer: str, date: datetime.date, start: datetime.time, minutes: int = 60) -> dict:
    """Put a new class on the timetable.

    Examples:
        - Add {course} with {trainer} on {date} at {start}
        - New class: {course}, {trainer}, {date}, {start}
        - {trainer} gives {course} on {date} at {start}, {minutes} minutes
        - Schedule {course} for {date} at {start} with {trainer}
        - Add a {minutes} minute {course} class on {date}, {start}, trainer {trainer}
    """
    return {"course": course, "trainer": trainer, "start": f"{date} {start}", "minutes": minutes}


def renew_membership(member: str, plan: Literal["basic", "plus", "premium"], months: int = 12) -> dict:
    """Start a new paid term for a member whose membership ends.

    Examples:
        - Renew {member} with {plan}
        - {member} renews, {plan}
        - Renew the membership of {member}, {plan}, {months} months
        - {member} wants {plan} for another {months} months
        - New term for {member}: {plan}
    """
    return {"member": member, "plan": plan, "months": months}


def extend_membership(member: str, days: int) -> dict:
    """Add free days to a membership that is running, as after an illness.

    Examples:
        - Extend {member} by {days} days
        - {member} gets {days} free days
        - {member} was ill, add {days} days
        - Extend the membership of {member}, {days} days
    """
    return {"member": member, "days": days}


def take_payment(member: str, amount: float, method: Literal["cash", "card", "transfer"]) -> str:
    """Record a payment of a member.

    Args:
        amount: in euros
        method: how the member paid; transfer is money that came to the bank account

    Examples:
        - {member} paid {amount} by {method}
        - {amount} euros from {member}, {method}
        - Payment of {amount} € by {member}, {method}
        - Record {amount} for {member}, {method}
        - {member} pays {amount} euros in {method}
    """
    return f"receipt for {member}: {amount:.2f} ({method})"


def give_locker(member: str, locker: int, towel: bool = False) -> dict:
    """Give a member the key to a locker.

    Args:
        towel: the member also gets a towel

    Examples:
        - Locker {locker} for {member}
        - Give {member} locker {locker}
        - {member} takes locker {locker}
        - Locker {locker} and a towel for {member} => towel=true
    """
    return {"locker": locker, "member": member, "towel": towel}


def free_locker(locker: int) -> bool:
    """Mark a locker as free again when its key was given back."""
    return locker < 100


def check_in(members: list[str]) -> int:
    """Check in members who come to train.

    Examples:
        - Check in {members}
        - {members} are here
        - Check {members} in please
        - {members} came to train
    """
    return len(members)
