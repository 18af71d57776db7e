"""Two-phase messages of DTM's Python client."""

import unittest

import coordinator
from bank import REFUSED, change, connect
from case import BankCase
from dtmcli import barrier, msg, utils


class MsgTest(BankCase):
    """alice's account is the initiator's own; the message tells bob's bank."""

    def setUp(self):
        super().setUp()
        self.check = self.bank.url("bank", "check")

    def message(self):
        return msg.Msg(coordinator.URL, self.gid).add({"amount": 30}, self.bank.url("bob", "action"))

    def cursor(self):
        cursor = connect().cursor()
        self.addCleanup(cursor.connection.close)
        return cursor

    @staticmethod
    def withdraw(cursor, amount=30):
        change(cursor, "action", "alice", -amount)

    def commit_then(self, error):
        """A local transaction that commits under the barrier, and an error after it."""

        def business(branch):
            branch.call(self.cursor(), self.withdraw)
            raise error

        return business

    def test_a_submitted_message_is_delivered(self):
        self.message().submit()
        view = coordinator.wait_status(self.gid, "succeed")
        self.assert_money(alice=100, bob=30)
        self.assert_trace("01 bob/action")
        self.assertEqual([("01", "action", "succeed")], view.rows)

    def test_a_prepared_message_is_not_delivered_before_its_submit(self):
        prepared = self.message().set_wait_result()
        prepared.prepare(self.check)
        view = coordinator.query(self.gid)
        self.assertEqual(("prepared", self.check), (view.status, view.transaction["query_prepared"]))
        self.assert_trace()
        prepared.submit()
        # It waited: the message has been delivered when the client returns.
        self.assertEqual("succeed", coordinator.query(self.gid).status)
        self.assert_money(alice=100, bob=30)

    def test_a_receivers_refusal_is_retried(self):
        self.bank.script("bob", "action", REFUSED)
        retried = self.message()
        retried.trans_base.retry_interval = 1
        retried.submit()
        coordinator.wait_status(self.gid, "succeed")
        self.assert_money(alice=100, bob=30)
        self.assert_trace("01 bob/action", "01 bob/action")

    def test_with_a_local_transaction(self):
        self.message().do_and_submit_db(self.check, self.cursor(), self.withdraw)
        coordinator.wait_status(self.gid, "succeed")
        self.assert_money(alice=70, bob=30)
        self.assert_trace("01 bob/action")

    def test_a_local_transaction_that_fails_sends_nothing(self):
        with self.assertRaisesRegex(utils.DTMFailureError, "alice has not enough"):
            self.message().do_and_submit_db(self.check, self.cursor(), lambda c: self.withdraw(c, 1000))
        self.assertEqual("failed", coordinator.query(self.gid).status)
        self.assert_money(alice=100, bob=0)
        self.assert_trace()

    def test_an_error_before_the_commit_sends_nothing(self):
        def broken(cursor):
            self.withdraw(cursor)
            raise ConnectionError("lost in the middle")

        with self.assertRaisesRegex(ConnectionError, "lost in the middle"):
            self.message().do_and_submit_db(self.check, self.cursor(), broken)
        self.assertEqual("failed", coordinator.query(self.gid).status)
        self.assert_money(alice=100, bob=0)
        self.assert_trace("00 bank/check")

    def test_an_error_after_the_commit_still_sends(self):
        with self.assertRaisesRegex(ConnectionError, "answer lost"):
            self.message().do_and_submit(self.check, self.commit_then(ConnectionError("answer lost")))
        coordinator.wait_status(self.gid, "succeed")
        self.assert_money(alice=70, bob=30)
        self.assert_trace("00 bank/check", "01 bob/action")

    def test_the_coordinator_asks_when_the_submit_never_comes_after_a_commit(self):
        lost = self.message()
        lost.trans_base.timeout_to_fail = 1
        lost.prepare(self.check)
        barrier.BranchBarrier("msg", self.gid, "00", "msg").call(self.cursor(), self.withdraw)
        coordinator.wait_status(self.gid, "succeed")
        self.assert_money(alice=70, bob=30)
        self.assert_trace("00 bank/check", "01 bob/action")
        check = self.bank.calls[0]
        self.assertEqual(("GET", {"gid": self.gid, "trans_type": "msg", "branch_id": "00", "op": "msg"}), (check.method, check.identity))

    def test_the_coordinator_asks_when_the_submit_never_comes_without_a_commit(self):
        lost = self.message()
        lost.trans_base.timeout_to_fail = 1
        lost.prepare(self.check)
        coordinator.wait_status(self.gid, "failed")
        # The check-back has shut out the local transaction.
        with self.assertRaisesRegex(Exception, "msg duplicate error"):
            barrier.BranchBarrier("msg", self.gid, "00", "msg").call(self.cursor(), self.withdraw)
        self.assert_money(alice=100, bob=0)
        self.assert_trace("00 bank/check")


if __name__ == "__main__":
    unittest.main()
