"""The frame of every test: a bank with two accounts, and a gid that the client fetched."""

import unittest

import coordinator
from bank import Bank
from dtmcli import utils


class BankCase(unittest.TestCase):
    """alice has 100, bob 0."""

    def setUp(self):
        self.bank = Bank()
        self.addCleanup(self.bank.close)
        self.bank.open(alice=100, bob=0)
        self.gid = utils.gen_gid(coordinator.URL)

    def assert_money(self, **balances):
        """Nothing is frozen, and the accounts have these balances."""
        found = self.bank.balances()
        self.assertEqual({name: (balance, 0) for name, balance in balances.items()}, {n: found[n] for n in balances})

    def assert_trace(self, *calls):
        self.assertEqual(list(calls), self.bank.trace())
