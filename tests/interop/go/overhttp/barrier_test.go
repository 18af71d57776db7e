package overhttp

import (
	"strings"
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
)

// A participant hangs longer than the saga may last; its work comes after the compensation and must not be done.
func TestBarrierShutsOutALateAction(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"maria", "pg"} {
		t.Run(prefix, func(t *testing.T) {
			t.Parallel()
			gid := bank.NewID(t)
			db := both.Of(prefix)
			order := bank.Order{Account: db.Open(t, gid, 100), Amount: 30}
			gate, done := make(chan struct{}), make(chan struct{})
			service.Before(gid, prefix+".out", func() error { <-gate; return nil })
			service.After(gid, prefix+".out", func() error { close(done); return nil })
			saga := dtmcli.NewSaga(bank.API(), gid).Add(service.HTTP(prefix+".out"), service.HTTP(prefix+".outUndo"), order)
			saga.TimeoutToFail, saga.RequestTimeout, saga.RetryInterval = 1, 1, 1
			bank.Must(t, saga.Submit())
			stored := bank.UntilStatus(t, gid, dtmcli.StatusFailed)
			bank.Equal(t, "reason", stored.Transaction.RollbackReason, "Timeout after 1 seconds")
			trace := service.Trace(gid)
			if !strings.HasSuffix(trace, prefix+".outUndo 01-compensate") {
				t.Fatalf("the compensation should be the last call: %s", trace)
			}
			close(gate)
			<-done
			bank.Equal(t, "barriers", db.Barriers(t, gid), "01 action compensate, 01 compensate compensate")
			db.Expect(t, order.Account, 100)
		})
	}
}
