package bank

import (
	"database/sql"

	"github.com/dtm-labs/client/dtmcli"
)

// HandleAccounts adds the handlers of one database: out and in for sagas and messages, tryOut and tryIn for TCC, xaOut and xaIn for XA,
// each under "<prefix>.<name>". Everything but XA goes through the client's barrier.
func (s *Service) HandleAccounts(prefix string, db *DB) {
	barrier := func(name string, work func(tx *sql.Tx, order Order) error) {
		s.Handle(prefix+"."+name, func(r *Request) error {
			r.Barrier.DBType = db.Name
			return r.Barrier.CallWithDB(db.Pool, func(tx *sql.Tx) error { return work(tx, r.Order) })
		})
	}
	barrier("out", func(tx *sql.Tx, o Order) error { return db.Adjust(tx, o.Account, -o.Amount) })
	barrier("outUndo", func(tx *sql.Tx, o Order) error { return db.Adjust(tx, o.Account, o.Amount) })
	barrier("in", func(tx *sql.Tx, o Order) error { return db.Adjust(tx, o.Account, o.Amount) })
	barrier("inUndo", func(tx *sql.Tx, o Order) error { return db.Adjust(tx, o.Account, -o.Amount) })

	barrier("tryOut", func(tx *sql.Tx, o Order) error { return db.Freeze(tx, o.Account, o.Amount) })
	barrier("confirmOut", func(tx *sql.Tx, o Order) error { return db.Settle(tx, o.Account, o.Amount) })
	barrier("cancelOut", func(tx *sql.Tx, o Order) error { return db.Freeze(tx, o.Account, -o.Amount) })
	// Money that comes in needs nothing set aside, but the account must be there.
	barrier("tryIn", func(tx *sql.Tx, o Order) error { return db.check(tx, o.Account) })
	barrier("confirmIn", func(tx *sql.Tx, o Order) error { return db.Adjust(tx, o.Account, o.Amount) })
	barrier("cancelIn", func(*sql.Tx, Order) error { return nil })

	xa := func(name string, sign int) {
		s.Handle(prefix+"."+name, func(r *Request) error {
			return db.xaLocal(r, func(on dtmcli.DB) error { return db.Adjust(on, r.Account, sign*r.Amount) })
		})
	}
	xa("xaOut", -1)
	xa("xaIn", 1)

	// Check-back of a message.
	s.Handle(prefix+".query", func(r *Request) error {
		r.Barrier.DBType = db.Name
		return r.Barrier.QueryPrepared(db.Pool)
	})
}

// xaLocal answers a first phase only when the connection that prepared is closed.
func (db *DB) xaLocal(r *Request, work func(on dtmcli.DB) error) error {
	var connection Connection
	err := r.XaLocal(db.Conf, func(one *sql.DB) (err error) {
		if connection, err = db.ConnectionOf(one); err != nil {
			return err
		}
		return work(one)
	})
	if err != nil {
		return err
	}
	return db.UntilClosed(connection)
}

// Connection is the number of a connection in MariaDB; in PostgreSQL nobody needs it.
type Connection int64

// ConnectionOf is the number of the connection on which the client runs an XA branch.
func (db *DB) ConnectionOf(one *sql.DB) (id Connection, err error) {
	if db.Name == dtmcli.DBTypeMysql {
		err = one.QueryRow("select connection_id()").Scan(&id)
	}
	return id, err
}

// UntilClosed waits until MariaDB has let go of the connection that prepared an XA transaction. Before that a commit from another
// connection finds no such transaction, which the client takes for done: see "lost commit" in tests/interop/README.md.
func (db *DB) UntilClosed(id Connection) error {
	if id == 0 {
		return nil
	}
	return poll(func() (bool, error) {
		var open int
		err := db.Pool.QueryRow("select count(*) from information_schema.processlist where id = ?", int64(id)).Scan(&open)
		return open == 0, err
	})
}
