package overhttp

import (
	"errors"
	"strings"
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
)

func transfer(gid string, from, to bank.Order) *dtmcli.Saga {
	saga := dtmcli.NewSaga(bank.API(), gid).
		Add(service.HTTP("maria.out"), service.HTTP("maria.outUndo"), from).
		Add(service.HTTP("pg.in"), service.HTTP("pg.inUndo"), to)
	saga.WaitResult = true
	saga.RetryInterval = 1
	return saga
}

func TestSagaSucceeds(t *testing.T) {
	t.Parallel()
	gid := dtmcli.MustGenGid(bank.API())
	from, to := both.Pair(t, gid, 100)
	saga := transfer(gid, from, to)
	saga.BranchHeaders = map[string]string{"X-Interop": "saga"}
	bank.Must(t, saga.Submit())
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
	bank.Equal(t, "rows", stored.Rows(), "01-compensate prepared, 01-action succeed, 02-compensate prepared, 02-action succeed")
	service.Expect(t, gid, "maria.out 01-action", "pg.in 02-action")
	for _, call := range service.Calls(gid) {
		bank.Equal(t, "header", call.Header.Get("X-Interop"), "saga")
	}
	both.Expect(t, from, to, 70, 130)
}

func TestSagaFailsAndIsCompensated(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	to.Amount = -130
	err := transfer(gid, from, to).Submit()
	if err == nil || !strings.Contains(err.Error(), dtmcli.ResultFailure) || !strings.Contains(err.Error(), "cannot pay 130") {
		t.Fatalf("submit should say why it failed: %v", err)
	}
	// What the coordinator answers never becomes a typed error in dtmcli.
	if errors.Is(err, dtmcli.ErrFailure) {
		t.Fatalf("dtmcli has become better: %v", err)
	}
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
	bank.Equal(t, "rows", stored.Rows(), "01-compensate succeed, 01-action succeed, 02-compensate succeed, 02-action failed")
	service.Expect(t, gid, "maria.out 01-action", "pg.in 02-action", "pg.inUndo 02-compensate", "maria.outUndo 01-compensate")
	// The failed action left no row, so its compensation was a null one and shut it out.
	bank.Equal(t, "barriers", both.PG.Barriers(t, gid), "02 action compensate, 02 compensate compensate")
	both.Expect(t, from, to, 100, 100)
}

func TestSagaOngoingIsAskedAgain(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	service.Before(gid, "pg.in", bank.Answers(dtmcli.ErrOngoing), bank.Answers(dtmcli.ErrOngoing))
	saga := transfer(gid, from, to)
	saga.WaitResult = false
	bank.Must(t, saga.Submit())
	bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
	service.Expect(t, gid, "maria.out 01-action", "pg.in 02-action", "pg.in 02-action", "pg.in 02-action")
	both.Expect(t, from, to, 70, 130)
}

func TestSagaOngoingWithWaitResultIsNoFailure(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	service.Before(gid, "pg.in", bank.Answers(dtmcli.ErrOngoing))
	saga := transfer(gid, from, to)
	saga.RetryInterval = 10
	err := saga.Submit()
	if err == nil || strings.Contains(err.Error(), dtmcli.ResultFailure) || !strings.Contains(err.Error(), dtmcli.ResultOngoing) {
		t.Fatalf("not done is neither done nor failed: %v", err)
	}
	bank.ExpectStatus(t, gid, dtmcli.StatusSubmitted)
	both.Maria.Expect(t, from.Account, 70)
}

func TestSagaErrorIsRetriedAndAppliedOnce(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	lost := errors.New("the answer was lost after the work was done")
	service.After(gid, "maria.out", bank.Answers(lost))
	service.After(gid, "pg.in", bank.Answers(lost))
	saga := transfer(gid, from, to)
	saga.WaitResult = false
	bank.Must(t, saga.Submit())
	bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
	service.Expect(t, gid, "maria.out 01-action", "maria.out 01-action", "pg.in 02-action", "pg.in 02-action")
	both.Expect(t, from, to, 70, 130)
}

func TestSagaRetryLimit(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	broken := bank.Answers(errors.New("broken"))
	service.Before(gid, "pg.in", broken, broken, broken, broken)
	saga := transfer(gid, from, to)
	saga.WithRetryLimit(2)
	err := saga.Submit()
	if err == nil || !strings.Contains(err.Error(), "RetryCount is greater than RetryLimit, RetryLimit: 2") {
		t.Fatalf("submit should name the limit: %v", err)
	}
	stored := bank.UntilStatus(t, gid, dtmcli.StatusFailed)
	bank.Equal(t, "rows", stored.Rows(), "01-compensate succeed, 01-action succeed, 02-compensate succeed, 02-action prepared")
	service.Expect(t, gid, "maria.out 01-action", "pg.in 02-action", "pg.in 02-action", "pg.in 02-action",
		"pg.inUndo 02-compensate", "maria.outUndo 01-compensate")
	both.Expect(t, from, to, 100, 100)
}

func TestSagaSubmittedAgain(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	bank.Must(t, transfer(gid, from, to).Submit())
	err := transfer(gid, from, to).Submit()
	if err == nil || !strings.Contains(err.Error(), "current status 'succeed'") {
		t.Fatalf("a finished saga cannot be submitted: %v", err)
	}
	both.Expect(t, from, to, 70, 130)
}

func TestSagaOverJSONRPC(t *testing.T) {
	t.Parallel()
	for _, balance := range []int{100, 0} {
		gid := bank.NewID(t)
		from, to := both.Pair(t, gid, balance)
		saga := transfer(gid, from, to)
		saga.Dtm, saga.Protocol = bank.JSONRPC(), dtmimp.Jrpc
		err := saga.Submit()
		if balance == 100 {
			bank.Must(t, err)
			bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
			both.Expect(t, from, to, 70, 130)
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "-32901") {
			t.Fatalf("the code of a failure is missing: %v", err)
		}
		bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
		both.Expect(t, from, to, 0, 0)
	}
}
