package overhttp

import (
	"errors"
	"strings"
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/go-resty/resty/v2"
)

func options(tcc *dtmcli.Tcc) {
	tcc.WaitResult = true
	tcc.RetryInterval = 1
}

func call(tcc *dtmcli.Tcc, prefix, way string, order bank.Order) (*resty.Response, error) {
	at := func(name string) string { return service.HTTP(prefix + "." + name + way) }
	return tcc.CallBranch(order, at("try"), at("confirm"), at("cancel"))
}

func TestTccSucceeds(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	err := dtmcli.TccGlobalTransaction2(bank.API(), gid, options, func(tcc *dtmcli.Tcc) (*resty.Response, error) {
		if resp, err := call(tcc, "maria", "Out", from); err != nil {
			return resp, err
		}
		bank.ExpectStatus(t, gid, dtmcli.StatusPrepared)
		return call(tcc, "pg", "In", to)
	})
	bank.Must(t, err)
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
	bank.Equal(t, "rows", stored.Rows(), "01-cancel prepared, 01-confirm succeed, 02-cancel prepared, 02-confirm succeed")
	service.Expect(t, gid, "maria.tryOut 01-try", "pg.tryIn 02-try", "pg.confirmIn 02-confirm", "maria.confirmOut 01-confirm")
	both.Expect(t, from, to, 70, 130)
}

func TestTccFailsAndIsCancelled(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	to.Account = "nobody"
	err := dtmcli.TccGlobalTransaction2(bank.API(), gid, options, func(tcc *dtmcli.Tcc) (*resty.Response, error) {
		if resp, err := call(tcc, "maria", "Out", from); err != nil {
			return resp, err
		}
		return call(tcc, "pg", "In", to)
	})
	if !errors.Is(err, dtmcli.ErrFailure) || !strings.Contains(err.Error(), "nobody is not here") {
		t.Fatalf("the failure of a try should reach the caller: %v", err)
	}
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
	bank.Equal(t, "rows", stored.Rows(), "01-cancel succeed, 01-confirm prepared, 02-cancel succeed, 02-confirm prepared")
	if reason := stored.Transaction.RollbackReason; !strings.Contains(reason, "nobody is not here") {
		t.Fatalf("the reason is missing: %q", reason)
	}
	service.Expect(t, gid, "maria.tryOut 01-try", "pg.tryIn 02-try", "pg.cancelIn 02-cancel", "maria.cancelOut 01-cancel")
	both.Maria.Expect(t, from.Account, 100)
}

func TestTccOngoingTry(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, _ := both.Pair(t, gid, 100)
	service.Before(gid, "maria.tryOut", bank.Answers(dtmcli.ErrOngoing))
	err := dtmcli.TccGlobalTransaction2(bank.API(), gid, options, func(tcc *dtmcli.Tcc) (*resty.Response, error) {
		return call(tcc, "maria", "Out", from)
	})
	if !errors.Is(err, dtmcli.ErrOngoing) || errors.Is(err, dtmcli.ErrFailure) {
		t.Fatalf("ongoing should stay ongoing: %v", err)
	}
	bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
	// The try never ran, so the cancel that came was a null one.
	bank.Equal(t, "barriers", both.Maria.Barriers(t, gid), "01 cancel cancel, 01 try cancel")
	both.Maria.Expect(t, from.Account, 100)
}

func TestTccConfirmIsRetried(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	service.Before(gid, "pg.confirmIn", bank.Answers(errors.New("not now")))
	// A failure is not legal here: a confirm is asked until it is done.
	service.Before(gid, "maria.confirmOut", bank.Answers(dtmcli.ErrFailure))
	err := dtmcli.TccGlobalTransaction2(bank.API(), gid, func(tcc *dtmcli.Tcc) { tcc.RetryInterval = 1 },
		func(tcc *dtmcli.Tcc) (*resty.Response, error) {
			if resp, err := call(tcc, "maria", "Out", from); err != nil {
				return resp, err
			}
			return call(tcc, "pg", "In", to)
		})
	bank.Must(t, err)
	bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
	service.Expect(t, gid, "maria.tryOut 01-try", "pg.tryIn 02-try", "pg.confirmIn 02-confirm", "pg.confirmIn 02-confirm",
		"maria.confirmOut 01-confirm", "maria.confirmOut 01-confirm")
	both.Expect(t, from, to, 70, 130)
}

func TestTccTooLate(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	custom := func(tcc *dtmcli.Tcc) {
		tcc.TimeoutToFail = 1
		tcc.RetryInterval = 1
	}
	err := dtmcli.TccGlobalTransaction2(bank.API(), gid, custom, func(tcc *dtmcli.Tcc) (*resty.Response, error) {
		if resp, err := call(tcc, "maria", "Out", from); err != nil {
			return resp, err
		}
		bank.UntilStatus(t, gid, dtmcli.StatusFailed)
		return call(tcc, "pg", "In", to)
	})
	if err == nil || !strings.Contains(err.Error(), "no trans with gid: "+gid+" status: prepared found") {
		t.Fatalf("no branch can be registered after the timeout: %v", err)
	}
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
	bank.Equal(t, "reason", stored.Transaction.RollbackReason, "Timeout after 1 seconds")
	service.Expect(t, gid, "maria.tryOut 01-try", "maria.cancelOut 01-cancel")
	both.Expect(t, from, to, 100, 100)
}

func TestNestedTcc(t *testing.T) {
	t.Parallel()
	for _, balance := range []int{100, 10} {
		gid := bank.NewID(t)
		from, to := both.Pair(t, gid, balance)
		// The participant of the first branch calls two more under its own branch.
		service.Handle(gid+".try", func(r *bank.Request) error {
			tcc, err := dtmcli.TccFromQuery(r.Query)
			if err != nil {
				return err
			}
			if _, err := call(tcc, "pg", "In", to); err != nil {
				return err
			}
			_, err = call(tcc, "maria", "Out", from)
			return err
		})
		for _, name := range []string{".confirm", ".cancel"} {
			service.Handle(gid+name, func(*bank.Request) error { return nil })
		}
		at := func(name string) string { return service.HTTP(gid + name) }
		err := dtmcli.TccGlobalTransaction2(bank.API(), gid, options, func(tcc *dtmcli.Tcc) (*resty.Response, error) {
			return tcc.CallBranch(bank.Order{}, at(".try"), at(".confirm"), at(".cancel"))
		})
		tries := []string{gid + ".try 01-try", "pg.tryIn 0101-try", "maria.tryOut 0102-try"}
		if balance == 100 {
			bank.Must(t, err)
			stored := bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
			bank.Equal(t, "rows", stored.Rows(), "01-cancel prepared, 01-confirm succeed, 0101-cancel prepared, 0101-confirm succeed, "+
				"0102-cancel prepared, 0102-confirm succeed")
			service.Expect(t, gid, append(tries, "maria.confirmOut 0102-confirm", "pg.confirmIn 0101-confirm", gid+".confirm 01-confirm")...)
			both.Expect(t, from, to, 70, 130)
			continue
		}
		if !errors.Is(err, dtmcli.ErrFailure) || !strings.Contains(err.Error(), "cannot set 30 aside") {
			t.Fatalf("the failure of a nested try should reach the top: %v", err)
		}
		bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
		service.Expect(t, gid, append(tries, "maria.cancelOut 0102-cancel", "pg.cancelIn 0101-cancel", gid+".cancel 01-cancel")...)
		both.Expect(t, from, to, balance, balance)
	}
}
