package overgrpc

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmgrpc"
	"github.com/dtm-labs/client/dtmgrpc/dtmgimp"
	"github.com/dtm-labs/client/dtmgrpc/dtmgpb"
	"google.golang.org/grpc/codes"
)

func message(s *bank.Service, gid string, to bank.Order) *dtmgrpc.MsgGrpc {
	msg := dtmgrpc.NewMsgGrpc(bank.GRPC(), gid).Add(s.GRPC("pg.in"), to.Proto())
	msg.RetryInterval = 1
	msg.TimeoutToFail = 1
	return msg
}

func takeFrom(from bank.Order) dtmcli.BarrierBusiFunc {
	return func(tx *sql.Tx) error { return both.Maria.Adjust(tx, from.Account, -from.Amount) }
}

func TestMessageSubmitted(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	_, to := both.Pair(t, gid, 0)
	msg := message(service, gid, to).Add(service.GRPC("pg.in"), to.Proto())
	msg.WaitResult = true
	bank.Must(t, msg.Submit())
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
	bank.Equal(t, "rows", stored.Rows(), "01-action succeed, 02-action succeed")
	service.Expect(t, gid, "pg.in 01-action", "pg.in 02-action")
	both.PG.Expect(t, to.Account, 60)
}

func TestMessageCommitted(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	msg := message(service, gid, to)
	bank.Must(t, msg.DoAndSubmitDB(service.GRPC("maria.query"), both.Maria.Pool, takeFrom(from)))
	bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
	service.Expect(t, gid, "pg.in 01-action")
	bank.Equal(t, "barriers", both.Maria.Barriers(t, gid), "00 msg msg")
	both.Expect(t, from, to, 70, 130)
}

func TestMessageCommittedInPostgres(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	_, account := both.Pair(t, gid, 100)
	msg := message(service, gid, account)
	bank.Must(t, msg.DoAndSubmit(service.GRPC("pg.query"), func(bb *dtmcli.BranchBarrier) error {
		bb.DBType = both.PG.Name
		return bb.CallWithDB(both.PG.Pool, func(tx *sql.Tx) error { return both.PG.Adjust(tx, account.Account, -100) })
	}))
	bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
	both.PG.Expect(t, account.Account, 30)
}

func TestMessageRolledBack(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 10)
	err := message(service, gid, to).DoAndSubmitDB(service.GRPC("maria.query"), both.Maria.Pool, takeFrom(from))
	if !errors.Is(err, dtmcli.ErrFailure) {
		t.Fatalf("the failure of the local transaction should be returned: %v", err)
	}
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
	bank.Equal(t, "rows", stored.Rows(), "01-action prepared")
	service.Expect(t, gid)
	both.Expect(t, from, to, 10, 10)
}

func TestMessageUnknownErrorIsAskedFor(t *testing.T) {
	t.Parallel()
	for _, committed := range []bool{false, true} {
		gid := bank.NewID(t)
		from, to := both.Pair(t, gid, 100)
		unknown := errors.New("the connection broke")
		err := message(service, gid, to).DoAndSubmit(service.GRPC("maria.query"), func(bb *dtmcli.BranchBarrier) error {
			if committed {
				bank.Must(t, bb.CallWithDB(both.Maria.Pool, takeFrom(from)))
			}
			return unknown
		})
		if !errors.Is(err, unknown) {
			t.Fatalf("the error of the business function should be returned: %v", err)
		}
		if committed {
			bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
			service.Expect(t, gid, "maria.query 00-msg", "pg.in 01-action")
			both.Expect(t, from, to, 70, 130)
		} else {
			bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
			service.Expect(t, gid, "maria.query 00-msg")
			both.Expect(t, from, to, 100, 100)
		}
	}
}

func dieBeforeCommit(s *bank.Service, gid string) {
	from, to := bank.PairOf(gid)
	_ = message(s, gid, to).DoAndSubmitDB(s.GRPC("maria.query"), both.Maria.Pool, func(tx *sql.Tx) error {
		if err := takeFrom(from)(tx); err != nil {
			return err
		}
		bank.DieHere()
		return nil
	})
}

func dieAfterCommit(s *bank.Service, gid string) {
	from, to := bank.PairOf(gid)
	_ = message(s, gid, to).DoAndSubmit(s.GRPC("maria.query"), func(bb *dtmcli.BranchBarrier) error {
		if err := bb.CallWithDB(both.Maria.Pool, takeFrom(from)); err != nil {
			return err
		}
		bank.DieHere()
		return nil
	})
}

func TestMessageCrashBeforeCommit(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	service.KilledChild(t, "message-before-commit", gid)
	bank.ExpectStatus(t, gid, dtmcli.StatusPrepared)
	bank.UntilStatus(t, gid, dtmcli.StatusFailed)
	service.Expect(t, gid, "maria.query 00-msg")
	bank.Equal(t, "barriers", both.Maria.Barriers(t, gid), "00 msg rollback")
	both.Expect(t, from, to, 100, 100)
}

func TestMessageCrashAfterCommit(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	// The first check-back does not know yet.
	service.Before(gid, "maria.query", bank.Answers(dtmcli.ErrOngoing))
	service.KilledChild(t, "message-after-commit", gid)
	bank.ExpectStatus(t, gid, dtmcli.StatusPrepared)
	bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
	service.Expect(t, gid, "maria.query 00-msg", "maria.query 00-msg", "pg.in 01-action")
	both.Expect(t, from, to, 70, 130)
}

func TestMessageTooLateIsDuplicated(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	err := message(service, gid, to).DoAndSubmit(service.GRPC("maria.query"), func(bb *dtmcli.BranchBarrier) error {
		// The check-back came before the local transaction and decided.
		if err := bb.QueryPrepared(both.Maria.Pool); !errors.Is(err, dtmcli.ErrFailure) {
			t.Errorf("nothing is committed: %v", err)
		}
		return bb.CallWithDB(both.Maria.Pool, takeFrom(from))
	})
	if !errors.Is(err, dtmcli.ErrDuplicated) {
		t.Fatalf("the local transaction should have been refused: %v", err)
	}
	bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
	both.Expect(t, from, to, 100, 100)
}

func TestMessageUsedAgain(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	send := func() error {
		return message(service, gid, to).DoAndSubmitDB(service.GRPC("maria.query"), both.Maria.Pool, takeFrom(from))
	}
	bank.Must(t, send())
	bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
	expectError(t, send(), codes.Aborted, dtmcli.ErrFailure, "current status 'succeed', cannot prepare")
	both.Expect(t, from, to, 70, 130)
}

func TestMessageBranchIsRetriedWhateverItAnswers(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	_, to := both.Pair(t, gid, 0)
	service.Before(gid, "pg.in", bank.Answers(dtmcli.ErrFailure), bank.Answers(dtmcli.ErrOngoing))
	bank.Must(t, message(service, gid, to).Submit())
	bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
	service.Expect(t, gid, "pg.in 01-action", "pg.in 01-action", "pg.in 01-action")
	both.PG.Expect(t, to.Account, 30)
}

func TestMessageToTopic(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	_, to := both.Pair(t, gid, 0)
	topic := "topic-" + gid
	send := func(gid string) error {
		msg := dtmgrpc.NewMsgGrpc(bank.GRPC(), gid).AddTopic(topic, to.Proto())
		msg.WaitResult = true
		return msg.Submit()
	}
	expectError(t, send(gid+"-none"), codes.NotFound, nil, "topic not found")
	service.Handle(gid+".second", func(*bank.Request) error { return nil })
	dtm := dtmgimp.MustGetDtmClient(bank.GRPC())
	for _, name := range []string{"pg.in", gid + ".second"} {
		subscriber := &dtmgpb.DtmTopicRequest{Topic: topic, URL: service.GRPC(name), Remark: "interop"}
		_, err := dtm.Subscribe(context.Background(), subscriber)
		bank.Must(t, err)
		_, err = dtm.Subscribe(context.Background(), subscriber)
		expectError(t, err, codes.AlreadyExists, nil, "this url exists")
	}
	bank.Must(t, send(gid))
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
	bank.Equal(t, "rows", stored.Rows(), "01-01-action succeed, 01-02-action succeed")
	service.Expect(t, gid, "pg.in 01-01-action", gid+".second 01-02-action")
	both.PG.Expect(t, to.Account, 30)

	_, err := dtm.Unsubscribe(context.Background(), &dtmgpb.DtmTopicRequest{Topic: topic, URL: service.GRPC(gid + ".second")})
	bank.Must(t, err)
	bank.Must(t, send(gid+"-one"))
	service.Expect(t, gid+"-one", "pg.in 01-action")
	both.PG.Expect(t, to.Account, 60)

	_, err = dtm.DeleteTopic(context.Background(), &dtmgpb.DtmTopicRequest{Topic: topic})
	bank.Must(t, err)
	expectError(t, send(gid+"-gone"), codes.NotFound, nil, "topic not found")
}

func TestMessageDelayed(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	msg := message(service, gid, to).SetDelay(2)
	began := time.Now()
	bank.Must(t, msg.DoAndSubmitDB(service.GRPC("maria.query"), both.Maria.Pool, takeFrom(from)))
	bank.ExpectStatus(t, gid, dtmcli.StatusSubmitted)
	bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
	service.Expect(t, gid, "pg.in 01-action")
	if waited := service.Calls(gid)[0].At.Sub(began); waited < 2*time.Second {
		t.Fatalf("called after %v", waited)
	}
	both.Expect(t, from, to, 70, 130)
}
