"""What the tests ask the coordinator beside the client: how a transaction stands, and to go on with it now."""

import os
import time

import requests

# Base URL as DTM's clients take it.
URL = os.environ["AMENDS_HTTP"] + "/api/dtmsvr"

# How long anything that must happen may take on a busy machine.
DEADLINE_S = 20


def until(what, condition):
    """Waits until the condition returns something true, and returns it."""
    end = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {DEADLINE_S} s: {what}")
        time.sleep(0.01)
    return value


class View:
    """One answer of /query."""

    def __init__(self, answer):
        self.transaction = answer["transaction"] or {}
        self.rows = [(row["branch_id"], row["op"], row["status"]) for row in answer["branches"]]

    @property
    def status(self):
        return self.transaction.get("status")


def query(gid):
    answer = requests.get(URL + "/query", params={"gid": gid}, timeout=DEADLINE_S)
    answer.raise_for_status()
    return View(answer.json())


def wait_status(gid, status):
    """Waits until the transaction has this status."""

    def reached():
        view = query(gid)
        return view if view.status == status else None

    return until(f"{gid} is {status}", reached)


def kick(gid):
    """Makes a waiting transaction due at once."""
    answer = requests.post(URL + "/resetNextCronTime", json={"gid": gid}, timeout=DEADLINE_S)
    answer.raise_for_status()
