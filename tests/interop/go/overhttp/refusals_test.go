package overhttp

import (
	"strings"
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
)

// What the coordinator refuses is an error that no client takes for a failure of the transaction, and leaves nothing stored.
func TestRefusals(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	refused := map[string]struct {
		gid    string
		change func(saga *dtmcli.Saga)
		words  string
	}{
		"long gid":      {strings.Repeat("g", 129), nil, "gid"},
		"no gid":        {"", nil, "gid"},
		"semicolon":     {gid + ";", nil, "gid"},
		"cycle":         {gid, func(s *dtmcli.Saga) { s.SetConcurrent().AddBranchOrder(0, []int{1}).AddBranchOrder(1, []int{0}) }, "order"},
		"no such step":  {gid, func(s *dtmcli.Saga) { s.SetConcurrent().AddBranchOrder(1, []int{7}) }, "order"},
		"no payload":    {gid, func(s *dtmcli.Saga) { s.Payloads = s.Payloads[:1] }, "payload"},
		"large payload": {gid, func(s *dtmcli.Saga) { s.Payloads[0] = strings.Repeat("x", 1<<20+1) }, "payload"},
		"address":       {gid, func(s *dtmcli.Saga) { s.Steps[0]["action"] = "ftp://127.0.0.1/out" }, "ftp://127.0.0.1/out"},
		"type":          {gid, func(s *dtmcli.Saga) { s.TransType = "sago" }, "sago"},
	}
	for name, r := range refused {
		saga := transfer(r.gid, from, to)
		if r.change != nil {
			r.change(saga)
		}
		err := saga.Submit()
		if err == nil || strings.Contains(err.Error(), dtmcli.ResultFailure) || !strings.Contains(err.Error(), r.words) {
			t.Fatalf("%s: this should name %q and be no failure: %v", name, r.words, err)
		}
		if r.gid != "" {
			bank.Equal(t, name+": status", bank.Status(t, r.gid), "")
		}
	}
	service.Expect(t, gid)
	both.Expect(t, from, to, 100, 100)
}
