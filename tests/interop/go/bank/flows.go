package bank

import (
	"errors"
	"fmt"
	"sync"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/workflow"
)

var resumed sync.Map

// first tells the first run of a workflow in this process from later ones.
func first(wf *workflow.Workflow) bool {
	_, again := resumed.LoadOrStore(wf.Gid, true)
	return !again
}

// EmptyFlow has no input and is not done in its first run.
func EmptyFlow(wf *workflow.Workflow, data []byte) ([]byte, error) {
	if len(data) > 0 {
		return nil, fmt.Errorf("input from nowhere: %q", data)
	}
	_, err := wf.NewBranch().Do(func(*dtmcli.BranchBarrier) ([]byte, error) {
		if first(wf) {
			return nil, dtmcli.ErrOngoing
		}
		return nil, nil
	})
	return nil, err
}

// SomeBytes are no UTF-8.
var SomeBytes = []byte{0xff, 0, 'a'}

// BytesFlow returns what its first step returned: SomeBytes. It is not done in its first run.
func BytesFlow(wf *workflow.Workflow, data []byte) ([]byte, error) {
	result, err := wf.NewBranch().Do(func(*dtmcli.BranchBarrier) ([]byte, error) { return SomeBytes, nil })
	if err == nil {
		_, err = EmptyFlow(wf, data)
	}
	return result, err
}

// ReasonFlow fails in its second step; its first run stops in the middle of the rollback.
func ReasonFlow(wf *workflow.Workflow, _ []byte) ([]byte, error) {
	wf.NewBranch().OnRollback(func(*dtmcli.BranchBarrier) error {
		if first(wf) {
			return errors.New("cannot roll back yet")
		}
		return nil
	})
	if _, err := wf.Do(func(*dtmcli.BranchBarrier) ([]byte, error) { return nil, nil }); err != nil {
		return nil, err
	}
	return wf.NewBranch().Do(func(*dtmcli.BranchBarrier) ([]byte, error) {
		return nil, fmt.Errorf("the account is closed. %w", dtmcli.ErrFailure)
	})
}
