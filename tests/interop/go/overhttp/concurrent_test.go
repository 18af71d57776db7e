package overhttp

import (
	"sort"
	"strings"
	"testing"
	"time"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
)

// diamond is a saga whose steps 0 and 1 run at the same time, and 2 and 3 after both of them.
func diamond(gid string, orders [4]bank.Order) *dtmcli.Saga {
	saga := dtmcli.NewSaga(bank.API(), gid)
	for step, prefix := range []string{"maria", "pg", "maria", "pg"} {
		saga.Add(service.HTTP(prefix+".in"), service.HTTP(prefix+".inUndo"), orders[step])
	}
	saga.AddBranchOrder(2, []int{0, 1}).AddBranchOrder(3, []int{0, 1}).SetConcurrent()
	saga.WaitResult = true
	saga.RetryInterval = 1
	return saga
}

func fourAccounts(t *testing.T, gid string) (orders [4]bank.Order) {
	t.Helper()
	for step, db := range []*bank.DB{maria, pg, maria, pg} {
		orders[step] = bank.Order{Account: db.Open(t, gid+"-"+string(rune('0'+step)), 0), Amount: 10 + step}
	}
	return orders
}

// together is a hook for two calls that end only when both have arrived.
func together(gid string) func() error {
	arrived := make(chan struct{}, 2)
	return func() error {
		arrived <- struct{}{}
		end := time.Now().Add(bank.Deadline)
		for len(arrived) < 2 {
			if time.Now().After(end) {
				return dtmcli.ErrOngoing
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	}
}

// sorted brings calls of the same level, which come in any order, into one.
func sorted(t *testing.T, gid string, levels ...int) string {
	t.Helper()
	var all []string
	for _, call := range service.Calls(gid) {
		all = append(all, call.Branch)
	}
	first := 0
	for _, n := range levels {
		if first+n > len(all) {
			t.Fatalf("%d calls are too few: %s", len(all), service.Trace(gid))
		}
		sort.Strings(all[first : first+n])
		first += n
	}
	return strings.Join(all, ", ")
}

func TestConcurrentSagaKeepsOrders(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	orders := fourAccounts(t, gid)
	both := together(gid)
	service.Before(gid, "maria.in", both)
	service.Before(gid, "pg.in", both)
	saga := diamond(gid, orders)
	bank.Must(t, saga.Submit())
	bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
	bank.Equal(t, "calls", sorted(t, gid, 2, 2), "01-action, 02-action, 03-action, 04-action")
	for step, db := range []*bank.DB{maria, pg, maria, pg} {
		db.Expect(t, orders[step].Account, 10+step)
	}
}

func TestConcurrentSagaCompensatesInReverse(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	orders := fourAccounts(t, gid)
	orders[3].Amount = -1
	both := together(gid)
	service.Before(gid, "maria.in", both)
	service.Before(gid, "pg.in", both)
	err := diamond(gid, orders).Submit()
	if err == nil || !strings.Contains(err.Error(), "cannot pay 1") {
		t.Fatalf("submit should say why it failed: %v", err)
	}
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
	bank.Equal(t, "rows", stored.Rows(), "01-compensate succeed, 01-action succeed, 02-compensate succeed, 02-action succeed, "+
		"03-compensate succeed, 03-action succeed, 04-compensate succeed, 04-action failed")
	bank.Equal(t, "calls", sorted(t, gid, 2, 2, 2, 2), "01-action, 02-action, 03-action, 04-action, "+
		"03-compensate, 04-compensate, 01-compensate, 02-compensate")
	for step, db := range []*bank.DB{maria, pg, maria, pg} {
		db.Expect(t, orders[step].Account, 0)
	}
}
