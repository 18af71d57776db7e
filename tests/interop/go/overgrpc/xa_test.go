package overgrpc

import (
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"
)

// xaDatabases are where the two halves of a transfer by XA are.
var xaDatabases = []struct {
	name, from, to string
}{
	{"mariadb", "maria", "maria"},
	{"postgresql", "pg", "pg"},
	{"both", "maria", "pg"},
}

func xaTransfer(gid, fromDB, toDB string, from, to bank.Order) error {
	custom := func(xa *dtmgrpc.XaGrpc) {
		xa.WaitResult = true
		xa.RetryInterval = 1
	}
	return dtmgrpc.XaGlobalTransaction2(bank.GRPC(), gid, custom, func(xa *dtmgrpc.XaGrpc) error {
		if err := xa.CallBranch(from.Proto(), service.GRPC(fromDB+".xaOut"), &emptypb.Empty{}); err != nil {
			return err
		}
		return xa.CallBranch(to.Proto(), service.GRPC(toDB+".xaIn"), &emptypb.Empty{})
	})
}

func TestXa(t *testing.T) {
	t.Parallel()
	for _, where := range xaDatabases {
		t.Run(where.name, func(t *testing.T) {
			t.Parallel()
			gid := bank.NewID(t)
			from := bank.Order{Account: both.Of(where.from).Open(t, gid+"-from", 100), Amount: 30}
			to := bank.Order{Account: both.Of(where.to).Open(t, gid+"-to", 100), Amount: 30}
			bank.Must(t, xaTransfer(gid, where.from, where.to, from, to))
			stored := bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
			bank.Equal(t, "rows", stored.Rows(), "01-rollback prepared, 01-commit succeed, 02-rollback prepared, 02-commit succeed")
			service.Expect(t, gid, where.from+".xaOut 01-action", where.to+".xaIn 02-action",
				where.from+".xaOut 01-commit", where.to+".xaIn 02-commit")
			both.Of(where.from).Expect(t, from.Account, 70)
			both.Of(where.to).Expect(t, to.Account, 130)
		})
		t.Run(where.name+"-fails", func(t *testing.T) {
			t.Parallel()
			gid := bank.NewID(t)
			from := bank.Order{Account: both.Of(where.from).Open(t, gid+"-from", 100), Amount: 30}
			to := bank.Order{Account: "nobody", Amount: 30}
			err := xaTransfer(gid, where.from, where.to, from, to)
			expectError(t, err, codes.Aborted, dtmcli.ErrFailure, "nobody cannot pay")
			// The branch that failed was never registered.
			stored := bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
			bank.Equal(t, "rows", stored.Rows(), "01-rollback succeed, 01-commit prepared")
			service.Expect(t, gid, where.from+".xaOut 01-action", where.to+".xaIn 02-action", where.from+".xaOut 01-rollback")
			both.Of(where.from).Expect(t, from.Account, 100)
		})
	}
}
