package overgrpc

import (
	"net"
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmgrpc"
)

func TestManyTransfersKeepTheSum(t *testing.T) {
	t.Parallel()
	both.Many(t, func(gid, fromDB, toDB string, from, to bank.Order) error {
		saga := dtmgrpc.NewSagaGrpc(bank.GRPC(), gid).
			Add(service.GRPC(fromDB+".out"), service.GRPC(fromDB+".outUndo"), from.Proto()).
			Add(service.GRPC(toDB+".in"), service.GRPC(toDB+".inUndo"), to.Proto())
		saga.RetryInterval = 1
		return saga.Submit()
	})
}

// A participant that is not there yet, comes, goes and comes back is called again each time.
func TestParticipantThatComesAndGoes(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	bank.Must(t, err)
	address := listener.Addr().String()
	bank.Must(t, listener.Close())
	for range 2 {
		gid := bank.NewID(t)
		from, to := both.Pair(t, gid, 100)
		saga := dtmgrpc.NewSagaGrpc(bank.GRPC(), gid).
			Add(service.GRPC("maria.out"), service.GRPC("maria.outUndo"), from.Proto()).
			Add(address+"/interop.Bank/pg.in", address+"/interop.Bank/pg.inUndo", to.Proto())
		saga.RetryInterval = 1
		bank.Must(t, saga.Submit())
		bank.Until(t, "the first step is done", func() bool { return bank.Query(t, gid).Rows() == twoRows })
		bank.ExpectStatus(t, gid, dtmcli.StatusSubmitted)
		stop := service.ServeAlsoAt(t, address)
		bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
		service.Expect(t, gid, "maria.out 01-action", "pg.in 02-action")
		both.Expect(t, from, to, 70, 130)
		stop()
	}
}

const twoRows = "01-compensate prepared, 01-action succeed, 02-compensate prepared, 02-action prepared"
