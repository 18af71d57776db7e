package overhttp

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
	"github.com/dtm-labs/client/workflow"
	"github.com/go-resty/resty/v2"
)

// Faults of the client that no server can cure, kept here so that nobody looks for them in the coordinator: see tests/interop/README.md.

// Its workflow over HTTP sends what a step returned as text, so bytes that are no UTF-8 come back as others.
func TestFaultBytesOfAStepAreChanged(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	if err := workflow.Execute("bytes", gid, nil); !errors.Is(err, dtmcli.ErrOngoing) {
		t.Fatalf("the first run is not done: %v", err)
	}
	bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
	result, err := workflow.Execute2("bytes", gid, nil)
	bank.Must(t, err)
	bank.Equal(t, "what the step of the first run is said to have returned", fmt.Sprintf("%+q", result), `"\ufffd\x00a"`)
}

// It does not record why a local step failed, so a run that is resumed ends without a reason.
func TestFaultReasonOfALocalStepIsLost(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	err := workflow.Execute("reason", gid, nil)
	if err == nil || errors.Is(err, dtmcli.ErrFailure) {
		t.Fatalf("the first run should stop at its rollback: %v", err)
	}
	stored := bank.UntilStatus(t, gid, dtmcli.StatusFailed)
	bank.Equal(t, "reason", strings.TrimSpace(stored.Transaction.RollbackReason), dtmcli.ResultFailure)
}

// Its workflow over HTTP does not look at the status of prepareWorkflow's answer and falls over a refusal.
func TestFaultPanicsOnARefusedWorkflow(t *testing.T) {
	t.Parallel()
	defer func() {
		if fault := fmt.Sprint(recover()); !strings.Contains(fault, "nil pointer") {
			t.Fatalf("the client has become better: %s", fault)
		}
	}()
	err := workflow.Execute("empty", strings.Repeat("g", 129), nil)
	t.Fatalf("the client has become better: %v", err)
}

// It takes the word FAILURE anywhere in the answer of a try for a failure, whatever the status says.
func TestFaultReadsAWordAsAFailure(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	service.Handle(gid+".try", func(r *bank.Request) error {
		r.Answer = map[string]string{"note": "no FAILURE seen"}
		return nil
	})
	service.Handle(gid+".end", func(*bank.Request) error { return nil })
	at := func(name string) string { return service.HTTP(gid + name) }
	err := dtmcli.TccGlobalTransaction2(bank.API(), gid, options, func(tcc *dtmcli.Tcc) (*resty.Response, error) {
		return tcc.CallBranch(bank.Order{}, at(".try"), at(".end"), at(".end"))
	})
	if !errors.Is(err, dtmcli.ErrFailure) {
		t.Fatalf("the client has become better: %v", err)
	}
	service.Expect(t, gid, gid+".try 01-try", gid+".end 01-cancel")
}

// A commit that finds no XA transaction is taken for one that was done before. MariaDB answers so for a moment after the client closed
// the connection that prepared; the money stays locked for ever. INTEROP_LOST_COMMITS says how often to try; it is no test, for it
// depends on the moment.
func TestFaultLostCommits(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("INTEROP_LOST_COMMITS"))
	if err != nil {
		t.Skip("a measurement: set INTEROP_LOST_COMMITS to a number of transactions")
	}
	service.Handle("hasty", func(r *bank.Request) error {
		return r.XaLocal(both.Maria.Conf, func(db *sql.DB) error { return both.Maria.Adjust(db, r.Account, r.Amount) })
	})
	var lost atomic.Int64
	var group sync.WaitGroup
	places := make(chan struct{}, 16) // as many at a time: a server with something to do closes connections later
	for range rounds {
		places <- struct{}{}
		group.Add(1)
		go func() {
			defer func() { <-places; group.Done() }()
			if hastyTransfer(t) {
				lost.Add(1)
			}
		}()
	}
	group.Wait()
	t.Logf("%d of %d transactions ended as succeed with a branch that was still only prepared", lost.Load(), rounds)
}

// hastyTransfer says whether a transaction was told to have succeeded while its branch was still only prepared.
func hastyTransfer(t *testing.T) bool {
	gid := bank.NewID(t)
	order := bank.Order{Account: both.Maria.Open(t, gid, 0), Amount: 1}
	custom := func(xa *dtmcli.Xa) { xa.WaitResult = true }
	err := dtmcli.XaGlobalTransaction2(bank.API(), gid, custom, func(xa *dtmcli.Xa) (*resty.Response, error) {
		return xa.CallBranch(order, service.HTTP("hasty"))
	})
	if err != nil {
		t.Error(err)
		return false
	}
	// What is left is committed here, or its locks would stand in the way of the end of the test.
	_, err = both.Maria.Pool.Exec(dtmimp.GetDBSpecial(both.Maria.Name).GetXaSQL("commit", gid+"-01"))
	return err == nil
}
