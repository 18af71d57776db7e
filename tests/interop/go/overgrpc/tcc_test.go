package overgrpc

import (
	"errors"
	"strings"
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"
)

func options(tcc *dtmgrpc.TccGrpc) {
	tcc.WaitResult = true
	tcc.RetryInterval = 1
}

func call(tcc *dtmgrpc.TccGrpc, prefix, way string, order bank.Order) error {
	at := func(name string) string { return service.GRPC(prefix + "." + name + way) }
	return tcc.CallBranch(order.Proto(), at("try"), at("confirm"), at("cancel"), &emptypb.Empty{})
}

func bothTries(from, to bank.Order) dtmgrpc.TccGlobalFunc {
	return func(tcc *dtmgrpc.TccGrpc) error {
		if err := call(tcc, "maria", "Out", from); err != nil {
			return err
		}
		return call(tcc, "pg", "In", to)
	}
}

func TestTccSucceeds(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	bank.Must(t, dtmgrpc.TccGlobalTransaction2(bank.GRPC(), gid, options, bothTries(from, to)))
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
	err := dtmgrpc.TccGlobalTransaction2(bank.GRPC(), gid, options, bothTries(from, to))
	expectError(t, err, codes.Aborted, dtmcli.ErrFailure, "nobody is not here")
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
	from, to := both.Pair(t, gid, 100)
	service.Before(gid, "maria.tryOut", bank.Answers(dtmcli.ErrOngoing))
	err := dtmgrpc.TccGlobalTransaction2(bank.GRPC(), gid, options, bothTries(from, to))
	expectError(t, err, codes.FailedPrecondition, dtmcli.ErrOngoing, "")
	bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
	bank.Equal(t, "barriers", both.Maria.Barriers(t, gid), "01 cancel cancel, 01 try cancel")
	both.Expect(t, from, to, 100, 100)
}

func TestTccConfirmIsRetried(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	service.Before(gid, "pg.confirmIn", bank.Answers(errors.New("not now")))
	// A failure is not legal here: a confirm is asked until it is done.
	service.Before(gid, "maria.confirmOut", bank.Answers(dtmcli.ErrFailure))
	custom := func(tcc *dtmgrpc.TccGrpc) { tcc.RetryInterval = 1 }
	bank.Must(t, dtmgrpc.TccGlobalTransaction2(bank.GRPC(), gid, custom, bothTries(from, to)))
	bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
	service.Expect(t, gid, "maria.tryOut 01-try", "pg.tryIn 02-try", "pg.confirmIn 02-confirm", "pg.confirmIn 02-confirm",
		"maria.confirmOut 01-confirm", "maria.confirmOut 01-confirm")
	both.Expect(t, from, to, 70, 130)
}

func TestTccTooLate(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	custom := func(tcc *dtmgrpc.TccGrpc) {
		tcc.TimeoutToFail = 1
		tcc.RetryInterval = 1
	}
	err := dtmgrpc.TccGlobalTransaction2(bank.GRPC(), gid, custom, func(tcc *dtmgrpc.TccGrpc) error {
		if err := call(tcc, "maria", "Out", from); err != nil {
			return err
		}
		bank.UntilStatus(t, gid, dtmcli.StatusFailed)
		return call(tcc, "pg", "In", to)
	})
	expectError(t, err, codes.Aborted, dtmcli.ErrFailure, "no trans with gid: "+gid+" status: prepared found")
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
			tcc, err := dtmgrpc.TccFromGrpc(r.Context)
			if err != nil {
				return err
			}
			if err := call(tcc, "pg", "In", to); err != nil {
				return err
			}
			return call(tcc, "maria", "Out", from)
		})
		for _, name := range []string{".confirm", ".cancel"} {
			service.Handle(gid+name, func(*bank.Request) error { return nil })
		}
		at := func(name string) string { return service.GRPC(gid + name) }
		err := dtmgrpc.TccGlobalTransaction2(bank.GRPC(), gid, options, func(tcc *dtmgrpc.TccGrpc) error {
			return tcc.CallBranch(bank.Order{}.Proto(), at(".try"), at(".confirm"), at(".cancel"), &emptypb.Empty{})
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
		expectError(t, err, codes.Aborted, dtmcli.ErrFailure, "cannot set 30 aside")
		bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
		service.Expect(t, gid, append(tries, "maria.cancelOut 0102-cancel", "pg.cancelIn 0101-cancel", gid+".cancel 01-cancel")...)
		both.Expect(t, from, to, balance, balance)
	}
}
