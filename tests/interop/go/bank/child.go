package bank

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
)

const childVariable = "INTEROP_CHILD"

// Child is a part of a test that kills its own process. It works for the transaction `gid` with the participant of the test.
type Child func(s *Service, gid string)

// RunChild is for TestMain: if this process was started by KilledChild, it runs that part and never returns.
func RunChild(parts map[string]Child) {
	part, wanted := os.LookupEnv(childVariable)
	if !wanted {
		return
	}
	s := empty()
	s.GRPCServer = grpc.NewServer() // never served
	s.httpAddr, s.grpcAddr = os.Getenv(childVariable+"_HTTP"), os.Getenv(childVariable+"_GRPC")
	parts[part](s, os.Getenv(childVariable+"_GID"))
	os.Exit(1) // It should have died.
}

// DieHere ends this process as a crash does: no deferred function runs, no connection is closed in an orderly way.
func DieHere() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// KilledChild runs a part of this test program in a process of its own and waits until it has killed itself. `settings`
// are added to its environment.
func (s *Service) KilledChild(t *testing.T, part, gid string, settings ...string) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(append(os.Environ(), settings...), childVariable+"="+part, childVariable+"_GID="+gid,
		childVariable+"_HTTP="+s.httpAddr, childVariable+"_GRPC="+s.grpcAddr)
	child.WaitDelay = Deadline
	timer := time.AfterFunc(Deadline, func() { _ = child.Process.Kill() })
	defer timer.Stop()
	output, err := child.CombinedOutput()
	if state := child.ProcessState; state == nil || state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child should have killed itself: %v\n%s", err, output)
	}
}
