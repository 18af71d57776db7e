// Package overhttp uses DTM's Go client over HTTP: dtmcli, and workflow in its HTTP form.
package overhttp

import (
	"os"
	"testing"

	"amends/interop/bank"
)

var (
	both    bank.Both
	service *bank.Service
)

func TestMain(m *testing.M) {
	both = bank.OpenBoth()
	bank.RunChild(children)
	service = bank.NewService()
	service.HandleAccounts("maria", both.Maria)
	service.HandleAccounts("pg", both.PG)
	registerWorkflows(service)
	os.Exit(m.Run())
}

// children are the parts of tests that die in a process of their own.
var children = map[string]bank.Child{
	"message-before-commit": dieBeforeCommit,
	"message-after-commit":  dieAfterCommit,
	"workflow":              dieInWorkflow,
}
