"""A participant: accounts in MariaDB, changed only under the barrier of DTM's client, behind an HTTP server on a free port."""

import json
import os
import threading
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pymysql
from dtmcli import barrier, utils

# `frozen` is money that a TCC try has set aside (negative) or promised (positive).
SCHEMA = """
create table if not exists python_account (
    name varchar(64) primary key, balance bigint not null, frozen bigint not null default 0
) engine = InnoDB;
create database if not exists dtm_barrier;
create table if not exists dtm_barrier.barrier (
    id bigint primary key auto_increment,
    trans_type varchar(45) not null, gid varchar(128) not null, branch_id varchar(128) not null, op varchar(45) not null,
    barrier_id varchar(45) not null, reason varchar(45) not null,
    create_time datetime not null default now(), update_time datetime not null default now(),
    unique key (gid, branch_id, op, barrier_id)
) engine = InnoDB character set utf8mb4 collate utf8mb4_bin
"""

# What each verb does to an account; where no row is affected, the account does not allow it.
VERBS = {
    "action": "balance = balance + %(amount)s where name = %(name)s and balance + %(amount)s >= 0",
    "compensate": "balance = balance - %(amount)s where name = %(name)s",
    "try": "frozen = frozen + %(amount)s where name = %(name)s and balance + frozen + %(amount)s >= 0",
    "confirm": "balance = balance + %(amount)s, frozen = frozen - %(amount)s where name = %(name)s",
    "cancel": "frozen = frozen - %(amount)s where name = %(name)s",
}


def connect():
    return pymysql.connect(
        host=os.environ["MARIADB_HOST"],
        port=int(os.environ["MARIADB_PORT"]),
        user=os.environ["MARIADB_USER"],
        password=os.environ["MARIADB_PASSWORD"],
        database=os.environ["MARIADB_DATABASE"],
    )


def change(cursor, verb, name, amount):
    """Changes an account inside the caller's transaction; raises the client's failure when it does not allow that."""
    statement = "update python_account set " + VERBS[verb]
    if cursor.execute(statement, {"name": name, "amount": amount}) == 0:
        raise utils.DTMFailureError(f"{name} has not enough")


@dataclass
class Call:
    """A request as it arrived."""

    method: str
    account: str
    verb: str
    identity: dict
    headers: Message
    body: object

    def __str__(self):
        return f"{self.identity.get('branch_id')} {self.account}/{self.verb}"


# Scripted answers: a status without doing the work, or (LOST) the work done and its answer lost.
REFUSED, ONGOING, LOST = 409, 425, "lost"


class Bank:
    """Serves `/<account>/<verb>`, and `/bank/check` for the check-backs of messages; `handlers` may replace what one of them does."""

    def __init__(self):
        self.calls = []
        self.scripts = {}
        self.handlers = {}
        self.lock = threading.Lock()
        with connect() as db, db.cursor() as cursor:
            for statement in SCHEMA.split(";"):
                cursor.execute(statement)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"bank": self}))
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def url(self, account, verb):
        return f"http://127.0.0.1:{self.http.server_port}/{account}/{verb}"

    def open(self, **balances):
        """Creates the accounts, or sets them back."""
        with connect() as db, db.cursor() as cursor:
            for account in balances.items():
                cursor.execute("replace into python_account(name, balance) values(%s, %s)", account)
            db.commit()

    def balances(self):
        """Balance and frozen money of every account."""
        with connect() as db, db.cursor() as cursor:
            cursor.execute("select name, balance, frozen from python_account")
            return {name: (balance, frozen) for name, balance, frozen in cursor.fetchall()}

    def script(self, account, verb, *answers):
        """What the next calls are answered; after these, calls are served."""
        self.scripts[account, verb] = list(answers)

    def trace(self):
        """Branch id, account and verb of every call, in order of arrival."""
        with self.lock:
            return [str(call) for call in self.calls]

    def serve(self, call):
        """The status and body for a call."""
        with self.lock:
            self.calls.append(call)
            script = self.scripts.get((call.account, call.verb))
            answer = script.pop(0) if script else None
        if isinstance(answer, int):
            return answer, {"message": "as scripted"}
        try:
            self.handlers.get((call.account, call.verb), self.work)(call)
        except utils.DTMFailureError as e:
            return 409, {"message": str(e)}
        if answer == LOST:
            return 500, {"message": "the answer was lost"}
        return 200, {"dtm_result": "SUCCESS"}

    def work(self, call):
        """What a call does: the change of its verb, or the answer to a check-back, under the barrier."""
        branch = barrier.BranchBarrier(*(call.identity[key] for key in ("trans_type", "gid", "branch_id", "op")))
        with barrier.AutoCursor(connect().cursor()) as cursor:
            if call.verb == "check":
                branch.query_prepared(cursor)
            else:
                branch.call(cursor, lambda c: change(c, call.verb, call.account, call.body["amount"]))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        url = urlsplit(self.path)
        _, account, verb = url.path.split("/")
        identity = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = Call(self.command, account, verb, identity, self.headers, json.loads(body) if body else None)
        status, answer = self.bank.serve(call)
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST

    def log_message(self, format, *args):
        """No access log: the tests look at `Bank.calls`."""
