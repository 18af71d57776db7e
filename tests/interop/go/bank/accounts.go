package bank

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
	_ "github.com/go-sql-driver/mysql" // the driver "mysql"
	_ "github.com/lib/pq"              // the driver "postgres"
)

// DB is a database with accounts and a barrier table.
type DB struct {
	// Name is the client's word for the kind of database, and that of the driver.
	Name string
	// Conf is how the client opens it.
	Conf dtmcli.DBConf
	// Pool is an ordinary pool of connections.
	Pool *sql.DB
}

// The barrier tables are those of DTM's documentation.
var schemas = map[string][]string{
	"mysql": {
		"create table if not exists account(name varchar(80) primary key, balance int not null, frozen int not null default 0)",
		"create database if not exists dtm_barrier",
		`create table if not exists dtm_barrier.barrier(
			id bigint(22) primary key auto_increment,
			trans_type varchar(45) default '', gid varchar(128) default '', branch_id varchar(128) default '',
			op varchar(45) default '', barrier_id varchar(45) default '', reason varchar(45) default '',
			create_time datetime default now(), update_time datetime default now(),
			key(create_time), key(update_time), unique key(gid, branch_id, op, barrier_id)) default charset utf8mb4`,
	},
	"postgres": {
		"create table if not exists account(name varchar(80) primary key, balance int not null, frozen int not null default 0)",
		"create schema if not exists dtm_barrier",
		`create table if not exists dtm_barrier.barrier(
			id bigserial primary key,
			trans_type varchar(45) default '', gid varchar(128) default '', branch_id varchar(128) default '',
			op varchar(45) default '', barrier_id varchar(45) default '', reason varchar(45) default '',
			create_time timestamp(0) with time zone default null, update_time timestamp(0) with time zone default null,
			constraint uniq_barrier unique(gid, branch_id, op, barrier_id))`,
	},
}

func open(kind, prefix string) *DB {
	conf := dtmcli.DBConf{
		Driver:   kind,
		Host:     env(prefix + "_HOST"),
		Port:     port(prefix + "_PORT"),
		User:     env(prefix + "_USER"),
		Password: env(prefix + "_PASSWORD"),
		Db:       env(prefix + "_DATABASE"),
		Schema:   "public",
	}
	pool, err := sql.Open(kind, dtmimp.GetDsn(conf))
	if err != nil {
		panic(err)
	}
	db := &DB{Name: kind, Conf: conf, Pool: pool}
	// The packages of this module run at the same time, and PostgreSQL's `if not exists` does not mind that.
	lock, unlock := "select get_lock('interop', 60)", "select release_lock('interop')"
	if kind == "postgres" {
		lock, unlock = "select pg_advisory_lock(1)", "select pg_advisory_unlock(1)"
	}
	one := dedicated(pool)
	defer one.Close()
	for _, statement := range append(append([]string{lock}, schemas[kind]...), unlock) {
		if _, err := one.ExecContext(background, statement); err != nil {
			panic(fmt.Errorf("%s: %w", statement, err))
		}
	}
	return db
}

func dedicated(pool *sql.DB) *sql.Conn {
	one, err := pool.Conn(background)
	if err != nil {
		panic(err)
	}
	return one
}

// OpenMariaDB opens the MariaDB that the harness started.
func OpenMariaDB() *DB { return open("mysql", "MARIADB") }

// OpenPostgres opens the PostgreSQL that the harness started.
func OpenPostgres() *DB { return open("postgres", "POSTGRES") }

// Exec runs a statement in MariaDB's writing.
func (db *DB) exec(on dtmcli.DB, statement string, values ...interface{}) (int64, error) {
	result, err := on.Exec(dtmimp.GetDBSpecial(db.Name).GetPlaceHoldSQL(statement), values...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// Open makes an account for one test.
func (db *DB) Open(t *testing.T, name string, balance int) string {
	t.Helper()
	_, err := db.exec(db.Pool, "insert into account(name, balance) values(?, ?)", name, balance)
	Must(t, err)
	return name
}

// Expect asserts what is in an account, and that nothing is frozen.
func (db *DB) Expect(t *testing.T, name string, balance int) {
	t.Helper()
	got, frozen := db.read(t, name)
	Equal(t, fmt.Sprintf("balance, frozen of %s in %s", name, db.Name), []int{got, frozen}, []int{balance, 0})
}

// UntilBalance waits until there is this much in an account.
func (db *DB) UntilBalance(t *testing.T, name string, balance int) {
	t.Helper()
	Until(t, fmt.Sprintf("%s in %s has %d", name, db.Name, balance), func() bool {
		got, _ := db.read(t, name)
		return got == balance
	})
}

func (db *DB) read(t *testing.T, name string) (balance, frozen int) {
	t.Helper()
	query := dtmimp.GetDBSpecial(db.Name).GetPlaceHoldSQL("select balance, frozen from account where name = ?")
	Must(t, db.Pool.QueryRow(query, name).Scan(&balance, &frozen))
	return balance, frozen
}

// Barriers are the rows of the barrier table for a transaction: "branch op reason", by branch and op.
func (db *DB) Barriers(t *testing.T, gid string) string {
	t.Helper()
	query := "select branch_id, op, reason from dtm_barrier.barrier where gid = ? order by branch_id, op"
	rows, err := db.Pool.Query(dtmimp.GetDBSpecial(db.Name).GetPlaceHoldSQL(query), gid)
	Must(t, err)
	defer rows.Close()
	var all []string
	for rows.Next() {
		var branch, op, reason string
		Must(t, rows.Scan(&branch, &op, &reason))
		all = append(all, branch+" "+op+" "+reason)
	}
	Must(t, rows.Err())
	return strings.Join(all, ", ")
}

// Adjust changes a balance, which never goes below zero: that is a definite failure, as is an account that does not exist.
func (db *DB) Adjust(on dtmcli.DB, name string, amount int) error {
	changed, err := db.exec(on, "update account set balance = balance + ? where name = ? and balance + ? >= 0", amount, name, amount)
	return definite(changed, err, "%s cannot pay %d", name, -amount)
}

// check fails definitely when there is no such account.
func (db *DB) check(on dtmcli.DB, name string) error {
	var found int64
	query := dtmimp.GetDBSpecial(db.Name).GetPlaceHoldSQL("select count(*) from account where name = ?")
	err := on.QueryRow(query, name).Scan(&found)
	return definite(found, err, "%s is not here", name)
}

// Freeze sets money aside that is to leave an account (or, with a negative amount, gives it free again).
func (db *DB) Freeze(on dtmcli.DB, name string, amount int) error {
	changed, err := db.exec(on, "update account set frozen = frozen + ? where name = ? and balance - frozen >= ?", amount, name, amount)
	return definite(changed, err, "%s cannot set %d aside", name, amount)
}

// Settle takes what was set aside.
func (db *DB) Settle(on dtmcli.DB, name string, amount int) error {
	changed, err := db.exec(on, "update account set frozen = frozen - ?, balance = balance - ? where name = ?", amount, amount, name)
	return definite(changed, err, "%s is not here", name)
}

func definite(changed int64, err error, text string, args ...interface{}) error {
	if err == nil && changed == 0 {
		err = fmt.Errorf(text+" %w", append(args, dtmcli.ErrFailure)...)
	}
	return err
}
