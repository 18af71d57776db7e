package overgrpc

import (
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmgrpc"
	"google.golang.org/grpc/codes"
)

// diamond is a saga whose steps 0 and 1 run at the same time, and 2 and 3 after both of them.
func diamond(gid string, orders [4]bank.Order) *dtmgrpc.SagaGrpc {
	saga := dtmgrpc.NewSagaGrpc(bank.GRPC(), gid)
	for step, prefix := range bank.Four {
		saga.Add(service.GRPC(prefix+".in"), service.GRPC(prefix+".inUndo"), orders[step].Proto())
	}
	saga.AddBranchOrder(2, []int{0, 1}).AddBranchOrder(3, []int{0, 1}).EnableConcurrent()
	saga.WaitResult = true
	saga.RetryInterval = 1
	return saga
}

func TestConcurrentSagaKeepsOrders(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	orders := both.OpenFour(t, gid)
	met := bank.Together()
	service.Before(gid, "maria.in", met)
	service.Before(gid, "pg.in", met)
	bank.Must(t, diamond(gid, orders).Submit())
	bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
	bank.Equal(t, "calls", service.Levels(t, gid, 2, 2), "01-action, 02-action, 03-action, 04-action")
	for step, prefix := range bank.Four {
		both.Of(prefix).Expect(t, orders[step].Account, 10+step)
	}
}

func TestConcurrentSagaCompensatesInReverse(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	orders := both.OpenFour(t, gid)
	orders[3].Amount = -1
	met := bank.Together()
	// The second calls are steps 2 and 3: both have run when one of them fails.
	service.Before(gid, "maria.in", bank.Answers(nil), met)
	service.Before(gid, "pg.in", bank.Answers(nil), met)
	expectError(t, diamond(gid, orders).Submit(), codes.Aborted, dtmcli.ErrFailure, "cannot pay 1")
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
	bank.Equal(t, "rows", stored.Rows(), "01-compensate succeed, 01-action succeed, 02-compensate succeed, 02-action succeed, "+
		"03-compensate succeed, 03-action succeed, 04-compensate succeed, 04-action failed")
	bank.Equal(t, "calls", service.Levels(t, gid, 2, 2, 2, 2), "01-action, 02-action, 03-action, 04-action, "+
		"03-compensate, 04-compensate, 01-compensate, 02-compensate")
	for step, prefix := range bank.Four {
		both.Of(prefix).Expect(t, orders[step].Account, 0)
	}
}
