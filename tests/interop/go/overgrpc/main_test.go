// Package overgrpc uses DTM's Go client over gRPC: dtmgrpc, and workflow in its gRPC form.
package overgrpc

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"amends/interop/bank"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	both    bank.Both
	service *bank.Service
)

func TestMain(m *testing.M) {
	if os.Getenv("AMENDS_GRPC") == "" {
		fmt.Println("SKIPPED: AMENDS_GRPC is not set")
		os.Exit(0)
	}
	both = bank.OpenBoth()
	bank.RunChild(children)
	service = bank.NewService()
	service.HandleAccounts("maria", both.Maria)
	service.HandleAccounts("pg", both.PG)
	registerWorkflows(service)
	service.ServeGRPC()
	os.Exit(m.Run())
}

// children are the parts of tests that die in a process of their own.
var children = map[string]bank.Child{
	"message-before-commit": dieBeforeCommit,
	"message-after-commit":  dieAfterCommit,
	"workflow":              dieInWorkflow,
}

// expectError asserts the code of a gRPC error, what the client makes of it (nil: nothing), and words of its message.
func expectError(t *testing.T, err error, code codes.Code, kind error, words string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), words) {
		t.Fatalf("this should be %v with %q: %v", code, words, err)
	}
	translated := dtmgrpc.GrpcError2DtmError(err)
	for _, each := range []error{dtmcli.ErrFailure, dtmcli.ErrOngoing} {
		if errors.Is(translated, each) != (each == kind) {
			t.Fatalf("the client should take this for %v: %v", kind, translated)
		}
	}
}
