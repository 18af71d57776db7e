package overgrpc

import (
	"errors"
	"strings"
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/workflow"
)

// A fault of the client that no server can cure: see tests/interop/README.md.

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
