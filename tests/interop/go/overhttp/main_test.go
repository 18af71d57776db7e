// Package overhttp uses DTM's Go client over HTTP: dtmcli, and workflow in its HTTP form.
package overhttp

import (
	"os"
	"testing"

	"amends/interop/bank"
)

var (
	maria   *bank.DB
	pg      *bank.DB
	service *bank.Service
)

func TestMain(m *testing.M) {
	maria, pg = bank.OpenMariaDB(), bank.OpenPostgres()
	bank.RunChild(children)
	service = bank.NewService()
	service.HandleAccounts("maria", maria)
	service.HandleAccounts("pg", pg)
	registerWorkflows(service)
	os.Exit(m.Run())
}

// children are the parts of tests that die in a process of their own.
var children = map[string]bank.Child{
	"message-before-commit": dieBeforeCommit,
	"message-after-commit":  dieAfterCommit,
	"workflow":              dieInWorkflow,
}

// pair opens an account in MariaDB and one in PostgreSQL for a transfer of 30 from the first to the second.
func pair(t *testing.T, gid string, balance int) (from, to bank.Order) {
	t.Helper()
	from = bank.Order{Account: maria.Open(t, gid+"-from", balance), Amount: 30}
	to = bank.Order{Account: pg.Open(t, gid+"-to", balance), Amount: 30}
	return from, to
}

func expectBalances(t *testing.T, from, to bank.Order, fromBalance, toBalance int) {
	t.Helper()
	maria.Expect(t, from.Account, fromBalance)
	pg.Expect(t, to.Account, toBalance)
}
