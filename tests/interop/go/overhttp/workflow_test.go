package overhttp

import (
	"database/sql"
	"errors"
	"os"
	"strings"
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/workflow"
)

// registerWorkflows is called once, since the client keeps workflows in a map of the process.
func registerWorkflows(s *bank.Service) {
	workflow.InitHTTP(bank.API(), s.HTTP("workflow"))
	s.Handle("workflow", func(r *bank.Request) error { return workflow.ExecuteByQS(r.Query, r.Body) })
	quick := func(wf *workflow.Workflow) {
		wf.RetryInterval = 1
		wf.RequestTimeout = 1
	}
	for name, fn := range map[string]workflow.WfFunc2{
		"saga": sagaFlow(s), "tcc": tccFlow(s), "crash": crashFlow(s), "xa": xaFlow, "empty": bank.EmptyFlow,
		"bytes": bank.BytesFlow, "reason": bank.ReasonFlow,
	} {
		if err := workflow.Register2(name, fn, quick); err != nil {
			panic(err)
		}
	}
}

// post calls a participant within a workflow.
func post(s *bank.Service, wf *workflow.Workflow, name string, order bank.Order) error {
	_, err := wf.NewRequest().SetBody(order).Post(s.HTTP(name))
	return err
}

// later is a call for the second phase.
func later(s *bank.Service, wf *workflow.Workflow, name string, order bank.Order) workflow.WfPhase2Func {
	return func(*dtmcli.BranchBarrier) error { return post(s, wf, name, order) }
}

// sagaFlow compensates in its second phase.
func sagaFlow(s *bank.Service) workflow.WfFunc2 {
	return func(wf *workflow.Workflow, data []byte) ([]byte, error) {
		from, to, err := bank.FromInput(data)
		if err != nil {
			return nil, err
		}
		wf.NewBranch().OnRollback(later(s, wf, "maria.outUndo", from))
		if err := post(s, wf, "maria.out", from); err != nil {
			return nil, err
		}
		wf.NewBranch().OnRollback(later(s, wf, "pg.inUndo", to))
		if err := post(s, wf, "pg.in", to); err != nil {
			return nil, err
		}
		return []byte("moved"), nil
	}
}

// tccFlow confirms or cancels in its second phase.
func tccFlow(s *bank.Service) workflow.WfFunc2 {
	return func(wf *workflow.Workflow, data []byte) ([]byte, error) {
		from, to, err := bank.FromInput(data)
		if err != nil {
			return nil, err
		}
		wf.NewBranch().OnCommit(later(s, wf, "maria.confirmOut", from)).OnRollback(later(s, wf, "maria.cancelOut", from))
		if err := post(s, wf, "maria.tryOut", from); err != nil {
			return nil, err
		}
		wf.NewBranch().OnCommit(later(s, wf, "pg.confirmIn", to)).OnRollback(later(s, wf, "pg.cancelIn", to))
		return nil, post(s, wf, "pg.tryIn", to)
	}
}

// Where a child that runs crashFlow dies: after its local transaction was committed and before anybody knows, or before the last branch.
const (
	dieUnrecorded = "unrecorded"
	dieRecorded   = "recorded"
	dieAt         = "INTEROP_DIE"
)

// crashFlow has a local branch and a remote one.
func crashFlow(s *bank.Service) workflow.WfFunc2 {
	return func(wf *workflow.Workflow, data []byte) ([]byte, error) {
		from, to, err := bank.FromInput(data)
		if err != nil {
			return nil, err
		}
		_, err = wf.NewBranch().Do(func(bb *dtmcli.BranchBarrier) ([]byte, error) {
			err := bb.CallWithDB(both.Maria.Pool, takeFrom(from))
			if err == nil && os.Getenv(dieAt) == dieUnrecorded {
				bank.DieHere()
			}
			return nil, err
		})
		if err != nil {
			return nil, err
		}
		if os.Getenv(dieAt) == dieRecorded {
			bank.DieHere()
		}
		wf.NewBranch()
		return []byte("moved"), post(s, wf, "pg.in", to)
	}
}

// xaFlow has two XA branches, one in each database.
func xaFlow(wf *workflow.Workflow, data []byte) ([]byte, error) {
	from, to, err := bank.FromInput(data)
	if err != nil {
		return nil, err
	}
	half := func(db *bank.DB, account string, amount int) error {
		var connection bank.Connection
		_, err := wf.NewBranch().DoXa(db.Conf, func(one *sql.DB) (_ []byte, err error) {
			if connection, err = db.ConnectionOf(one); err != nil {
				return nil, err
			}
			return nil, db.Adjust(one, account, amount)
		})
		if err != nil {
			return err
		}
		return db.UntilClosed(connection)
	}
	if err := half(both.Maria, from.Account, -from.Amount); err != nil {
		return nil, err
	}
	return nil, half(both.PG, to.Account, to.Amount)
}

func TestWorkflowSucceedsOnce(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	calls := []string{"maria.out 01-action", "pg.in 02-action"}
	for range 2 { // the second time the result comes from the coordinator, and nothing runs
		result, err := workflow.Execute2("saga", gid, bank.Input(from, to))
		bank.Must(t, err)
		bank.Equal(t, "result", string(result), "moved")
		stored := bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
		bank.Equal(t, "rows", stored.Rows(), "01-action succeed, 02-action succeed")
		service.Expect(t, gid, calls...)
		both.Expect(t, from, to, 70, 130)
	}
}

func TestWorkflowRollsBack(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	to.Amount = -130
	for range 2 {
		_, err := workflow.Execute2("saga", gid, bank.Input(from, to))
		if !errors.Is(err, dtmcli.ErrFailure) || !strings.Contains(err.Error(), "cannot pay 130") {
			t.Fatalf("the failure should be returned: %v", err)
		}
		stored := bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
		bank.Equal(t, "rows", stored.Rows(), "01-action succeed, 02-action failed, 01-rollback succeed")
		if reason := stored.Transaction.RollbackReason; !strings.Contains(reason, "cannot pay 130") {
			t.Fatalf("the reason is missing: %q", reason)
		}
		service.Expect(t, gid, "maria.out 01-action", "pg.in 02-action", "maria.outUndo 01-rollback")
		both.Expect(t, from, to, 100, 100)
	}
}

func TestWorkflowConfirmsOrCancels(t *testing.T) {
	t.Parallel()
	for _, balance := range []int{100, 10} {
		gid := bank.NewID(t)
		from, to := both.Pair(t, gid, 100)
		if balance == 10 {
			to.Account = "nobody"
		}
		_, err := workflow.Execute2("tcc", gid, bank.Input(from, to))
		if balance == 100 {
			bank.Must(t, err)
			stored := bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
			bank.Equal(t, "rows", stored.Rows(), "01-action succeed, 02-action succeed, 02-commit succeed, 01-commit succeed")
			service.Expect(t, gid, "maria.tryOut 01-action", "pg.tryIn 02-action", "pg.confirmIn 02-commit", "maria.confirmOut 01-commit")
			both.Expect(t, from, to, 70, 130)
			continue
		}
		if !errors.Is(err, dtmcli.ErrFailure) {
			t.Fatalf("the failure should be returned: %v", err)
		}
		bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
		service.Expect(t, gid, "maria.tryOut 01-action", "pg.tryIn 02-action", "maria.cancelOut 01-rollback")
		both.Maria.Expect(t, from.Account, 100)
	}
}

func TestWorkflowOngoingIsResumed(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	service.Before(gid, "pg.in", bank.Answers(dtmcli.ErrOngoing), bank.Answers(errors.New("broken")))
	_, err := workflow.Execute2("saga", gid, bank.Input(from, to))
	if !errors.Is(err, dtmcli.ErrOngoing) {
		t.Fatalf("ongoing should stay ongoing: %v", err)
	}
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusPrepared)
	bank.Equal(t, "rows", stored.Rows(), "01-action succeed")
	bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
	service.Expect(t, gid, "maria.out 01-action", "pg.in 02-action", "workflow 00-saga", "pg.in 02-action",
		"workflow 00-saga", "pg.in 02-action")
	both.Expect(t, from, to, 70, 130)
}

func dieInWorkflow(s *bank.Service, gid string) {
	registerWorkflows(s)
	from, to := bank.PairOf(gid)
	_, _ = workflow.Execute2("crash", gid, bank.Input(from, to))
}

func TestWorkflowCrashIsResumed(t *testing.T) {
	t.Parallel()
	for _, place := range []string{dieRecorded, dieUnrecorded} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			gid := bank.NewID(t)
			from, to := both.Pair(t, gid, 100)
			service.KilledChild(t, "workflow", gid, dieAt+"="+place)
			stored := bank.ExpectStatus(t, gid, dtmcli.StatusPrepared)
			bank.Equal(t, "rows", stored.Rows(), map[string]string{dieRecorded: "01-action succeed", dieUnrecorded: ""}[place])
			both.Maria.Expect(t, from.Account, 70)
			stored = bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
			bank.Equal(t, "rows", stored.Rows(), "01-action succeed, 02-action succeed")
			service.Expect(t, gid, "workflow 00-crash", "pg.in 02-action")
			both.Expect(t, from, to, 70, 130)
			result, err := workflow.Execute2("crash", gid, bank.Input(from, to))
			bank.Must(t, err)
			bank.Equal(t, "result", string(result), "moved")
		})
	}
}

// Two runs of one workflow at a time: the one that comes too late must not take the refusal of its branch for a failure and roll back.
func TestWorkflowThatRunsTwiceAtATime(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	arrived, gate := make(chan struct{}), make(chan struct{})
	service.Before(gid, "maria.out", func() error { close(arrived); <-gate; return nil })
	late := make(chan error, 1)
	go func() {
		_, err := workflow.Execute2("saga", gid, bank.Input(from, to))
		late <- err
	}()
	<-arrived
	_, err := workflow.Execute2("saga", gid, bank.Input(from, to))
	bank.Must(t, err)
	close(gate)
	if err := <-late; err == nil || errors.Is(err, dtmcli.ErrFailure) {
		t.Fatalf("the late run should stop, and not fail: %v", err)
	}
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
	bank.Equal(t, "rows", stored.Rows(), "01-action succeed, 02-action succeed")
	service.Expect(t, gid, "maria.out 01-action", "maria.out 01-action", "pg.in 02-action")
	both.Expect(t, from, to, 70, 130)
}

// An empty input makes DTM call back with GET; the callback comes by POST here, which a handler must take anyway.
func TestWorkflowWithoutInputIsResumed(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	if err := workflow.Execute("empty", gid, nil); !errors.Is(err, dtmcli.ErrOngoing) {
		t.Fatalf("the first run is not done: %v", err)
	}
	bank.UntilStatus(t, gid, dtmcli.StatusSucceed)
	service.Expect(t, gid, "workflow 00-empty")
}

func TestWorkflowXa(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	_, err := workflow.Execute2("xa", gid, bank.Input(from, to))
	bank.Must(t, err)
	stored := bank.ExpectStatus(t, gid, dtmcli.StatusSucceed)
	bank.Equal(t, "rows", stored.Rows(), "01-business succeed, 01-action succeed, 02-business succeed, 02-action succeed, "+
		"02-commit succeed, 01-commit succeed")
	both.Expect(t, from, to, 70, 130)
}

func TestWorkflowXaRollsBack(t *testing.T) {
	t.Parallel()
	gid := bank.NewID(t)
	from, to := both.Pair(t, gid, 100)
	to.Amount = -130
	_, err := workflow.Execute2("xa", gid, bank.Input(from, to))
	if !errors.Is(err, dtmcli.ErrFailure) {
		t.Fatalf("the failure should be returned: %v", err)
	}
	bank.ExpectStatus(t, gid, dtmcli.StatusFailed)
	both.Expect(t, from, to, 100, 100)
}
