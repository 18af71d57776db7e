package overhttp

import (
	"errors"
	"strings"
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/go-resty/resty/v2"
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
	custom := func(xa *dtmcli.Xa) {
		xa.WaitResult = true
		xa.RetryInterval = 1
	}
	return dtmcli.XaGlobalTransaction2(bank.API(), gid, custom, func(xa *dtmcli.Xa) (*resty.Response, error) {
		if resp, err := xa.CallBranch(from, service.HTTP(fromDB+".xaOut")); err != nil {
			return resp, err
		}
		return xa.CallBranch(to, service.HTTP(toDB+".xaIn"))
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
			if !errors.Is(err, dtmcli.ErrFailure) || !strings.Contains(err.Error(), "nobody cannot pay") {
				t.Fatalf("the failure of a branch should reach the caller: %v", err)
			}
			// The branch that failed was never registered.
			stored := bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
			bank.Equal(t, "rows", stored.Rows(), "01-rollback succeed, 01-commit prepared")
			service.Expect(t, gid, where.from+".xaOut 01-action", where.to+".xaIn 02-action", where.from+".xaOut 01-rollback")
			both.Of(where.from).Expect(t, from.Account, 100)
		})
	}
}
