// Package bank holds what the tests of DTM's Go client share: accounts in two databases, a participant that serves them over HTTP and
// gRPC and writes down who called it, and a look at what the coordinator has stored.
package bank

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dtm-labs/logger"
)

// Deadline is how long any condition may take on a busy machine.
const Deadline = 30 * time.Second

const pause = 10 * time.Millisecond

func init() {
	// The client logs every request; LOG_LEVEL=debug shows that.
	if os.Getenv("LOG_LEVEL") == "" {
		logger.WithLogger(silence{})
	}
}

type silence struct{}

func (silence) Debugf(string, ...interface{}) {}
func (silence) Infof(string, ...interface{})  {}
func (silence) Warnf(string, ...interface{})  {}
func (silence) Errorf(string, ...interface{}) {}

// env is a variable that tests/go.rs sets.
func env(name string) string {
	value := os.Getenv(name)
	if value == "" {
		panic(fmt.Sprintf("%s is not set: see tests/interop/README.md", name))
	}
	return value
}

func port(name string) int64 {
	n, err := strconv.ParseInt(env(name), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", name, err))
	}
	return n
}

// API is the base of the coordinator's HTTP routes, as the client wants it.
func API() string { return env("AMENDS_HTTP") + "/api/dtmsvr" }

// JSONRPC is where the coordinator speaks JSON-RPC.
func JSONRPC() string { return env("AMENDS_HTTP") + "/api/json-rpc" }

// GRPC is the coordinator's gRPC address.
func GRPC() string { return env("AMENDS_GRPC") }

var serial atomic.Int64

// NewID is a name that no other test uses, short enough for an XA id in MariaDB (64 bytes with the branch id).
func NewID(t *testing.T) string {
	name := strings.TrimPrefix(t.Name(), "Test")
	if cut := strings.IndexByte(name, '/'); cut > 0 {
		name = name[:cut] + "-" + name[cut+1:]
	}
	name = strings.Map(func(r rune) rune {
		if r == '/' || r == '_' {
			return '-'
		}
		return r
	}, name)
	return fmt.Sprintf("%.36s-%x-%d", name, time.Now().UnixMicro(), serial.Add(1))
}

// Until waits for a condition.
func Until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	end := time.Now().Add(Deadline)
	for !holds() {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", Deadline, what)
		}
		time.Sleep(pause)
	}
}

// Equal fails the test when the two differ as text.
func Equal(t *testing.T, what string, got, want interface{}) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Fatalf("%s:\n got  %s\n want %s", what, g, w)
	}
}

// Must fails the test on an error.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// poll waits for a condition outside of a test's own goroutine.
func poll(holds func() (bool, error)) error {
	end := time.Now().Add(Deadline)
	for time.Now().Before(end) {
		held, err := holds()
		if held || err != nil {
			return err
		}
		time.Sleep(pause)
	}
	return fmt.Errorf("not within %v", Deadline)
}
