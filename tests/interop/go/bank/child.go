package bank

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

const childVariable = "INTEROP_CHILD"

// RunChild is for TestMain: if this process was started by KilledChild, it runs that part and never returns.
func RunChild(parts map[string]func(id string)) {
	part, wanted := os.LookupEnv(childVariable)
	if !wanted {
		return
	}
	parts[part](os.Getenv(childVariable + "_ID"))
	os.Exit(1) // It should have died.
}

// DieHere ends this process as a crash does: no deferred function runs, no connection is closed in an orderly way.
func DieHere() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// KilledChild runs a part of this test program in a process of its own and waits until it has killed itself. `settings` are added to
// its environment.
func KilledChild(t *testing.T, part, id string, settings ...string) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(append(os.Environ(), childVariable+"="+part, childVariable+"_ID="+id), settings...)
	child.WaitDelay = Deadline
	timer := time.AfterFunc(Deadline, func() { _ = child.Process.Kill() })
	defer timer.Stop()
	output, err := child.CombinedOutput()
	if state := child.ProcessState; state == nil || state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child should have killed itself: %v\n%s", err, output)
	}
}
