"""calltune as a library, for scripts and notebooks: functions in, a tuned model and its figures out."""

import calltune


def order_status(order_id: int) -> dict:
    """Look up the status of an order."""
    return {"order_id": order_id, "status": "shipped"}


def book_table(restaurant: str, people: int) -> dict:
    """Book a table at a restaurant."""
    return {"booked": restaurant, "people": people}


data = calltune.synthesise([order_status, book_table])
run = calltune.train(model="smollm2-135m", data=data, out="runs/library", overwrite=True)
report = calltune.evaluate(run, data.test, baseline="base", limit=40, max_tokens=96)
print(f"exact calls: {report.before['call_exact_match']:.0%} before, {report.after['call_exact_match']:.0%} after")
reply = calltune.load(run)("Please book a table at Blue Lagoon for 4 people.")
for call in reply.calls:
    print(call.name, dict(call.arguments))
