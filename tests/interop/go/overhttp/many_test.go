package overhttp

import (
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
)

func TestManyTransfersKeepTheSum(t *testing.T) {
	t.Parallel()
	both.Many(t, func(gid, fromDB, toDB string, from, to bank.Order) error {
		saga := dtmcli.NewSaga(bank.API(), gid).
			Add(service.HTTP(fromDB+".out"), service.HTTP(fromDB+".outUndo"), from).
			Add(service.HTTP(toDB+".in"), service.HTTP(toDB+".inUndo"), to)
		saga.RetryInterval = 1
		return saga.Submit()
	})
}
