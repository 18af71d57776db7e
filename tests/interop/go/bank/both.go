package bank

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/dtm-labs/client/dtmcli"
)

// Both are the two databases between which money is moved.
type Both struct {
	Maria, PG *DB
}

// OpenBoth opens them.
func OpenBoth() Both { return Both{Maria: OpenMariaDB(), PG: OpenPostgres()} }

// Of is the database with the prefix of its handlers.
func (b Both) Of(prefix string) *DB {
	if prefix == "maria" {
		return b.Maria
	}
	return b.PG
}

// Pair opens an account in MariaDB and one in PostgreSQL, for a transfer of 30 from the first to the second.
func (b Both) Pair(t *testing.T, gid string, balance int) (from, to Order) {
	t.Helper()
	from, to = PairOf(gid)
	b.Maria.Open(t, from.Account, balance)
	b.PG.Open(t, to.Account, balance)
	return from, to
}

// PairOf is that transfer in a child of the test that opened the accounts.
func PairOf(gid string) (from, to Order) {
	return Order{Account: gid + "-from", Amount: 30}, Order{Account: gid + "-to", Amount: 30}
}

// Expect asserts both balances.
func (b Both) Expect(t *testing.T, from, to Order, fromBalance, toBalance int) {
	t.Helper()
	b.Maria.Expect(t, from.Account, fromBalance)
	b.PG.Expect(t, to.Account, toBalance)
}

// Four are the prefixes of the databases of the four steps of a concurrent saga.
var Four = [4]string{"maria", "pg", "maria", "pg"}

// OpenFour opens an empty account for each of those steps, which brings in 10 and its number.
func (b Both) OpenFour(t *testing.T, gid string) (orders [4]Order) {
	t.Helper()
	for step, prefix := range Four {
		orders[step] = Order{Account: b.Of(prefix).Open(t, fmt.Sprintf("%s-%d", gid, step), 0), Amount: 10 + step}
	}
	return orders
}

// Together is a hook for two calls that end only when both have arrived.
func Together() func() error {
	arrived := make(chan struct{}, 2)
	return func() error {
		arrived <- struct{}{}
		end := time.Now().Add(Deadline)
		for len(arrived) < 2 {
			if time.Now().After(end) {
				return dtmcli.ErrOngoing
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	}
}

// Levels are the branches called so far; calls of one level, which come in any order, are sorted. `sizes` are the levels.
func (s *Service) Levels(t *testing.T, gid string, sizes ...int) string {
	t.Helper()
	var all []string
	for _, call := range s.Calls(gid) {
		all = append(all, call.Branch)
	}
	first := 0
	for _, n := range sizes {
		if first+n > len(all) {
			t.Fatalf("%d calls are too few: %s", len(all), s.Trace(gid))
		}
		sort.Strings(all[first : first+n])
		first += n
	}
	return strings.Join(all, ", ")
}

type orders struct {
	From, To Order
}

// Input is a transfer as the input of a workflow.
func Input(from, to Order) []byte {
	data, err := json.Marshal(orders{From: from, To: to})
	if err != nil {
		panic(err)
	}
	return data
}

// FromInput is the transfer in the input of a workflow.
func FromInput(data []byte) (from, to Order, err error) {
	var o orders
	err = json.Unmarshal(data, &o)
	return o.From, o.To, err
}
