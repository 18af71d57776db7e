package bank

import (
	"fmt"
	"sync"
	"testing"

	"github.com/dtm-labs/client/dtmcli"
)

// Many runs transfers at the same time, in a ring of accounts that lie in both databases in turn; every third is too large and fails.
// `submit` starts one and must not wait for it.
func (b Both) Many(t *testing.T, submit func(gid, fromPrefix, toPrefix string, from, to Order) error) {
	t.Helper()
	const accounts, transfers, balance = 6, 60, 100
	id := NewID(t)
	prefix := func(i int) string { return Four[i%2] }
	var names [accounts]string
	for i := range names {
		names[i] = b.Of(prefix(i)).Open(t, fmt.Sprintf("%s-%d", id, i), balance)
	}
	gid := func(n int) string { return fmt.Sprintf("%s-t%d", id, n) }
	var group sync.WaitGroup
	for n := range transfers {
		amount := 1 + n%2
		if n%3 == 0 {
			amount = balance * transfers
		}
		group.Add(1)
		go func() {
			defer group.Done()
			i, j := n%accounts, (n+1)%accounts
			if err := submit(gid(n), prefix(i), prefix(j), Order{names[i], amount}, Order{names[j], amount}); err != nil {
				t.Errorf("%s: %v", gid(n), err)
			}
		}()
	}
	group.Wait()
	sum := 0
	for n := range transfers {
		want := dtmcli.StatusSucceed
		if n%3 == 0 {
			want = dtmcli.StatusFailed
		}
		UntilStatus(t, gid(n), want)
	}
	for i, name := range names {
		got, _ := b.Of(prefix(i)).read(t, name)
		sum += got
	}
	Equal(t, "the sum of all accounts", sum, accounts*balance)
}
