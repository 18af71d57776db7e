"""Sagas of DTM's Python client."""

import unittest

import coordinator
from bank import LOST, ONGOING, REFUSED
from case import BankCase
from dtmcli import saga, utils


class SagaTest(BankCase):
    def transfer(self, amount=30):
        """Out of alice's account, into bob's."""
        built = saga.Saga(coordinator.URL, self.gid)
        for account, sign in (("alice", -1), ("bob", 1)):
            urls = self.bank.url(account, "action"), self.bank.url(account, "compensate")
            built.add({"amount": sign * amount}, *urls)
        return built

    def test_both_steps_succeed(self):
        self.transfer().submit()
        view = coordinator.wait_status(self.gid, "succeed")
        self.assert_money(alice=70, bob=30)
        self.assert_trace("01 alice/action", "02 bob/action")
        self.assertEqual(
            [("01", "compensate", "prepared"), ("01", "action", "succeed"), ("02", "compensate", "prepared"), ("02", "action", "succeed")],
            view.rows,
        )
        call = self.bank.calls[0]
        self.assertEqual(("POST", {"amount": -30}, "application/json"), (call.method, call.body, call.headers["Content-Type"]))
        self.assertEqual({"gid": self.gid, "trans_type": "saga", "branch_id": "01", "op": "action"}, call.identity)

    def test_a_refused_step_is_compensated(self):
        bad = self.transfer()
        bad.add({"amount": -1000}, self.bank.url("bob", "action"), self.bank.url("bob", "compensate"))
        bad.submit()  # the client reports nothing here: it did not ask to wait
        view = coordinator.wait_status(self.gid, "failed")
        self.assert_money(alice=100, bob=0)
        actions = ["01 alice/action", "02 bob/action", "03 bob/action"]
        # The barrier makes the compensation of the refused step an empty one.
        self.assert_trace(*actions, "03 bob/compensate", "02 bob/compensate", "01 alice/compensate")
        self.assertEqual(["succeed", "succeed", "succeed", "succeed", "succeed", "failed"], [row[2] for row in view.rows])
        self.assertIn("bob has not enough", view.transaction["rollback_reason"])

    def test_waiting_for_a_saga_that_fails_raises_the_clients_failure(self):
        waited = self.transfer(amount=1000)
        waited.trans_base.wait_result = True
        with self.assertRaises(utils.DTMFailureError):
            waited.submit()
        self.assertEqual("failed", coordinator.query(self.gid).status)
        self.assert_money(alice=100, bob=0)
        self.assert_trace("01 alice/action", "01 alice/compensate")

    def test_waiting_for_a_saga_that_is_not_decided_raises_no_failure(self):
        self.bank.script("bob", "action", ONGOING)
        waited = self.transfer()
        waited.trans_base.wait_result = True
        waited.trans_base.retry_interval = 60
        with self.assertRaisesRegex(Exception, "^bad result$") as raised:
            waited.submit()
        self.assertNotIsInstance(raised.exception, utils.DTMFailureError)
        self.assertEqual("submitted", coordinator.query(self.gid).status)
        coordinator.kick(self.gid)
        coordinator.wait_status(self.gid, "succeed")
        self.assert_money(alice=70, bob=30)
        self.assert_trace("01 alice/action", "02 bob/action", "02 bob/action")

    def test_an_action_whose_answer_was_lost_is_done_once(self):
        self.bank.script("alice", "action", LOST)
        retried = self.transfer()
        retried.trans_base.retry_interval = 1
        retried.submit()
        coordinator.wait_status(self.gid, "succeed")
        self.assert_money(alice=70, bob=30)
        self.assert_trace("01 alice/action", "01 alice/action", "02 bob/action")

    def test_a_compensation_whose_answer_was_lost_is_done_once(self):
        self.bank.script("bob", "action", REFUSED)
        self.bank.script("alice", "compensate", LOST)
        failing = self.transfer()
        failing.trans_base.retry_interval = 1
        failing.submit()
        coordinator.wait_status(self.gid, "failed")
        self.assert_money(alice=100, bob=0)
        self.assert_trace(
            "01 alice/action", "02 bob/action", "02 bob/compensate", "01 alice/compensate", "01 alice/compensate"
        )

    def test_branch_headers_reach_every_call(self):
        tagged = self.transfer()
        tagged.trans_base.branch_headers = {"X-Tenant": "north"}
        tagged.submit()
        coordinator.wait_status(self.gid, "succeed")
        self.assertEqual(["north", "north"], [call.headers["X-Tenant"] for call in self.bank.calls])

    def test_submitting_what_has_ended_raises_the_clients_failure(self):
        self.transfer().submit()
        coordinator.wait_status(self.gid, "succeed")
        with self.assertRaises(utils.DTMFailureError):
            self.transfer().submit()
        self.assert_money(alice=70, bob=30)

    def test_what_the_coordinator_refuses_raises_no_failure(self):
        bad = self.transfer()
        bad.add({}, "ftp://127.0.0.1/action", "")
        with self.assertRaisesRegex(Exception, "^bad result$") as raised:
            bad.submit()
        self.assertNotIsInstance(raised.exception, utils.DTMFailureError)
        self.assertEqual({}, coordinator.query(self.gid).transaction)
        self.assert_trace()

    def test_the_clients_own_concurrent_sagas_never_reach_the_coordinator(self):
        with self.assertRaisesRegex(AttributeError, "'Saga' object has no attribute 'orders'"):
            self.transfer().set_concurrent().submit()
        self.assertEqual({}, coordinator.query(self.gid).transaction)


if __name__ == "__main__":
    unittest.main()
