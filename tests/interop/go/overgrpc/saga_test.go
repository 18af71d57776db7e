package overgrpc

import (
	"errors"
	"strings"
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

func transfer(gid string, from, to bank.Order) *dtmgrpc.SagaGrpc {
	saga := dtmgrpc.NewSagaGrpc(bank.GRPC(), gid).
		Add(service.GRPC("maria.out"), service.GRPC("maria.outUndo"), from.Proto()).
		Add(service.GRPC("pg.in"), service.GRPC("pg.inUndo"), to.Proto())
	saga.WaitResult = true
	saga.RetryInterval = 1
	return saga
}

func TestSagaSucceeds(t *testing.T) {
	t.Parallel()
	gid := dtmgrpc.MustGenGid(bank.GRPC())
	from, to := both.Pair(t, gid, 100)
	saga := transfer(gid, from, to)
	saga.BranchHeaders = map[string]string{"x-interop": "saga"}
	bank.Must(t, saga.Submit())
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
	bank.Equal(t, "protocol", stored.Transaction.Protocol, "grpc")
	bank.Equal(t, "rows", stored.Rows(), "01-compensate prepared, 01-action succeed, 02-compensate prepared, 02-action succeed")
	service.Expect(t, gid, "maria.out 01-action", "pg.in 02-action")
	for _, call := range service.Calls(gid) {
		bank.Equal(t, "metadata", call.Metadata.Get("x-interop"), []string{"saga"})
		bank.Equal(t, "transaction type", call.Metadata.Get("dtm-trans_type"), []string{"saga"})
		if _, there := call.Metadata["dtm-dtm"]; !there {
			t.Fatalf("dtm-dtm is missing: %v", call.Metadata)
		}
	}
	both.Expect(t, from, to, 70, 130)
}

func TestSagaFailsAndIsCompensated(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	to.Amount = -130
	err := transfer(gid, from, to).Submit()
	expectError(t, err, codes.Aborted, dtmcli.ErrFailure, "cannot pay 130")
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
	bank.Equal(t, "rows", stored.Rows(), "01-compensate succeed, 01-action succeed, 02-compensate succeed, 02-action failed")
	service.Expect(t, gid, "maria.out 01-action", "pg.in 02-action", "pg.inUndo 02-compensate", "maria.outUndo 01-compensate")
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
	expectError(t, saga.Submit(), codes.FailedPrecondition, dtmcli.ErrOngoing, "")
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
	expectError(t, err, codes.Aborted, dtmcli.ErrFailure, "RetryCount is greater than RetryLimit, RetryLimit: 2")
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
	expectError(t, err, codes.Aborted, dtmcli.ErrFailure, "current status 'succeed'")
	both.Expect(t, from, to, 70, 130)
}

// A transaction that is submitted over gRPC may have branches that are reached over HTTP.
func TestSagaWithAnHTTPBranch(t *testing.T) {
	t.Parallel()
	for _, balance := range []int{100, 10} {
		gid := bank.NewID(t)
		from, to := both.Pair(t, gid, balance)
		json := []byte(`{"account":"` + from.Account + `","amount":30}`)
		saga := dtmgrpc.NewSagaGrpc(bank.GRPC(), gid).
			Add(service.GRPC("pg.in"), service.GRPC("pg.inUndo"), to.Proto()).
			Add(service.HTTP("maria.out"), service.HTTP("maria.outUndo"), to.Proto())
		saga.BinPayloads[1] = json
		saga.WaitResult = true
		err := saga.Submit()
		if balance == 100 {
			bank.Must(t, err)
			both.Expect(t, from, to, 70, 130)
			continue
		}
		expectError(t, err, codes.Aborted, dtmcli.ErrFailure, "cannot pay 30")
		service.Expect(t, gid, "pg.in 01-action", "maria.out 02-action", "maria.outUndo 02-compensate", "pg.inUndo 01-compensate")
		both.Expect(t, from, to, 10, 10)
	}
}

// And the other way round: a saga of the HTTP client whose branch is a gRPC method, by the scheme that Amends knows for that.
func TestHTTPSagaWithAGRPCBranch(t *testing.T) {
	t.Parallel()
	for _, balance := range []int{100, 10} {
		gid := bank.NewID(t)
		from, to := both.Pair(t, gid, balance)
		saga := dtmcli.NewSaga(bank.API(), gid).
			Add(service.HTTP("pg.in"), service.HTTP("pg.inUndo"), to).
			Add("grpc://"+service.GRPC("maria.out"), "grpc://"+service.GRPC("maria.outUndo"), nil)
		message, err := proto.Marshal(from.Proto())
		bank.Must(t, err)
		saga.Payloads[1] = string(message)
		saga.WaitResult = true
		err = saga.Submit()
		if balance == 100 {
			bank.Must(t, err)
			service.Expect(t, gid, "pg.in 01-action", "maria.out 02-action")
			both.Expect(t, from, to, 70, 130)
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "cannot pay 30") {
			t.Fatalf("submit should say why it failed: %v", err)
		}
		service.Expect(t, gid, "pg.in 01-action", "maria.out 02-action", "maria.outUndo 02-compensate", "pg.inUndo 01-compensate")
		both.Expect(t, from, to, 10, 10)
	}
}

func TestSagaToNowhere(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	saga := transfer(gid, from, to).Add(service.GRPC("nobody"), "", to.Proto())
	saga.WithRetryLimit(1)
	expectError(t, saga.Submit(), codes.Aborted, dtmcli.ErrFailure, "RetryLimit: 1")
	bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
	both.Expect(t, from, to, 100, 100)
}
