"""The IT help desk of a company: tickets, accounts, lent devices, licences, remote sessions."""

import datetime
from typing import Literal


def open_ticket(reporter: str, topic: Literal["printer", "network", "email", "laptop"], urgent: bool = False) -> dict:
    """Open a ticket for a problem that somebody has.

    Args:
        reporter: who has the problem or called about it
        topic: what does not work

    Examples:
        - New ticket for {reporter}: {topic}
        - {reporter} has a problem with the {topic}
        - Open a {topic} ticket for {reporter}
        - Ticket from {reporter}, {topic} broken
        - Urgent: {topic} problem, {reporter} => urgent=true
        - {topic} issue reported by {reporter}
    """
    return {"ticket": 1000 + len(reporter), "topic": topic, "urgent": urgent}


def close_ticket(ticket: int) -> bool:
    """Close a ticket whose problem is solved.

    Examples:
        - Close ticket {ticket}
        - Ticket {ticket} is solved
        - {ticket} can be closed
        - Set {ticket} to done
    """
    return True


def log_hours(ticket: int, hours: float) -> dict:
    """Record the working time that was spent on a ticket.

    Examples:
        - Log {hours} hours on {ticket}
        - I worked {hours} hours on ticket {ticket}
        - {ticket}: {hours} hours
        - Add {hours} h to ticket {ticket}
        - Book {hours} hours on {ticket}
    """
    return {"ticket": ticket, "total": hours + 1}


def reset_password(login: str) -> str:
    """Set a new password for a user who does not know the old one.

    Args:
        login: the name that the user signs in with

    Examples:
        - Reset the password of {login}
        - {login} forgot the password
        - New password for {login}
        - Password reset for {login} please
        - {login} needs a new password
    """
    return f"one-time password sent to the manager of {login}"


def unlock_account(login: str) -> bool:
    """Unlock an account that was locked after too many failed sign-ins; the password stays.

    Args:
        login: the name that the user signs in with
    """
    return True


def lend_device(
    person: str, device: Literal["laptop", "monitor", "headset", "phone"], until: datetime.date, quantity: int = 1
) -> dict:
    """Lend a device to somebody.

    Args:
        until: the day on which it comes back

    Examples:
        - Lend {person} a {device} until {until}
        - {person} needs a {device} until {until}
        - {device} for {person}, back on {until}
        - {quantity} {device}s for {person} until {until}
        - {person} borrows a {device} until {until}
    """
    return {"person": person, "device": device, "quantity": quantity, "until": until}


def take_back(tag: str) -> bool:
    """Take back a device that was lent.

    Args:
        tag: the inventory number on its sticker, such as NB-1042

    Examples:
        - {tag} is back
        - Take back {tag}
        - Device {tag} was returned
        - {tag} returned
    """
    return True


def give_licence(software: str, logins: list[str], until: datetime.date | None = None) -> int:
    """Give users a licence of a program.

    Args:
        logins: the names that the users sign in with
        until: the last day of the licence; without an end if not given

    Examples:
        - {software} licence for {logins}
        - Give {logins} {software}
        - {logins} need {software}
        - {software} for {logins} until {until}
        - Assign a {software} licence to {logins}
    """
    return len(logins)


def book_session(person: str, date: datetime.date, start: datetime.time, minutes: int = 30) -> dict:
    """Book a remote support session with somebody.

    Examples:
        - Remote session with {person} on {date} at {start}
        - Book a session for {person}, {date}, {start}
        - {person} wants remote help on {date} at {start}
        - Session with {person} {date} {start}, {minutes} minutes
        - Book {minutes} minutes with {person} on {date} at {start}
    """
    return {"person": person, "start": f"{date} {start}", "minutes": minutes}
