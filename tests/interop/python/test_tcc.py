"""TCC of DTM's Python client."""

import unittest

import coordinator
import requests
from case import BankCase
from dtmcli import tcc, utils


class TccTest(BankCase):
    def branch(self, transaction, account, amount):
        """Registers a branch and calls its try."""
        urls = (self.bank.url(account, verb) for verb in ("try", "confirm", "cancel"))
        return transaction.call_branch({"amount": amount}, *urls)

    def run_transaction(self, body):
        return tcc.tcc_global_transaction(coordinator.URL, self.gid, body)

    def test_tries_are_confirmed_in_reverse(self):
        def body(transaction):
            self.branch(transaction, "alice", -30)
            self.branch(transaction, "bob", 30)
            self.assertEqual({"alice": (100, -30), "bob": (0, 30)}, self.bank.balances())

        self.assertEqual(self.gid, self.run_transaction(body))
        view = coordinator.wait_status(self.gid, "succeed")
        self.assert_money(alice=70, bob=30)
        self.assert_trace("01 alice/try", "02 bob/try", "02 bob/confirm", "01 alice/confirm")
        self.assertEqual(
            [("01", "cancel", "prepared"), ("01", "confirm", "succeed"), ("02", "cancel", "prepared"), ("02", "confirm", "succeed")],
            view.rows,
        )
        self.assertEqual([{"amount": -30}, {"amount": 30}, {"amount": 30}, {"amount": -30}], [c.body for c in self.bank.calls])

    def test_a_refused_try_cancels_all(self):
        def body(transaction):
            self.branch(transaction, "bob", 30)
            self.branch(transaction, "alice", -1000)

        # The client swallows the error: an empty gid is all it reports.
        self.assertEqual("", self.run_transaction(body))
        view = coordinator.wait_status(self.gid, "failed")
        self.assert_money(alice=100, bob=0)
        # The barrier makes the cancel of the refused try an empty one.
        self.assert_trace("01 bob/try", "02 alice/try", "02 alice/cancel", "01 bob/cancel")
        self.assertEqual(["succeed", "prepared", "succeed", "prepared"], [row[2] for row in view.rows])

    def test_an_error_of_the_initiator_cancels_what_was_tried(self):
        def body(transaction):
            self.branch(transaction, "alice", -30)
            raise ZeroDivisionError("in the business code")

        self.assertEqual("", self.run_transaction(body))
        coordinator.wait_status(self.gid, "failed")
        self.assert_money(alice=100, bob=0)
        self.assert_trace("01 alice/try", "01 alice/cancel")

    def test_a_branch_registers_branches_of_its_own(self):
        def nested(call):
            # The client gives a try no address of the coordinator; its services must know it.
            inner = tcc.tcc_from_req(coordinator.URL, call.identity["gid"], call.identity["branch_id"])
            self.branch(inner, "bob", 30)
            self.bank.work(call)

        self.bank.handlers["alice", "try"] = nested
        self.assertEqual(self.gid, self.run_transaction(lambda transaction: self.branch(transaction, "alice", -30)))
        coordinator.wait_status(self.gid, "succeed")
        self.assert_money(alice=70, bob=30)
        self.assert_trace("01 alice/try", "0101 bob/try", "0101 bob/confirm", "01 alice/confirm")

    def test_a_late_branch_is_refused_and_never_tried(self):
        def body(transaction):
            self.branch(transaction, "alice", -30)
            answer = requests.post(coordinator.URL + "/submit", json={"gid": self.gid, "trans_type": "tcc"}, timeout=20)
            utils.check_result(answer)
            self.branch(transaction, "bob", 30)

        # Registering is refused, then so is the abort of what has been submitted: that is what the client lets out.
        with self.assertRaises(utils.DTMFailureError):
            self.run_transaction(body)
        coordinator.wait_status(self.gid, "succeed")
        self.assert_money(alice=70, bob=0)
        self.assert_trace("01 alice/try", "01 alice/confirm")

    def test_a_try_after_its_cancel_changes_nothing(self):
        def body(transaction):
            self.branch(transaction, "alice", -30)
            raise RuntimeError("the network, say")

        self.bank.handlers["alice", "try"] = lambda call: None  # the request is held up on its way
        self.run_transaction(body)
        coordinator.wait_status(self.gid, "failed")
        late = self.bank.calls[0]
        self.bank.work(late)
        self.assert_money(alice=100, bob=0)


if __name__ == "__main__":
    unittest.main()
