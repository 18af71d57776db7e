//! The statements of core's barrier on real databases, through their own command-line clients: `amends barrier ddl` as the help says, and
//! plans of every op, prepared as a driver would.

use amends::participant::barrier::{Statement, plan, query_prepared};
use amends::participant::{Dialect, Identity, ParamStyle, ddl};
use amends_interop::{Databases, Login};
use std::io::Write;
use std::process::{Command, Stdio};

/// Feeds a client with SQL and returns what it prints.
fn feed(mut client: Command, sql: &str) -> String {
    let mut child = client
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a client of the database");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(sql.as_bytes()).expect("taken");
    drop(stdin);
    let output = child.wait_with_output().expect("its end");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{sql}", text(&output.stderr));
    text(&output.stdout)
}

fn mariadb(login: &Login) -> Command {
    let mut client = Command::new("mariadb");
    client
        .args(["--no-defaults", "--batch", "--skip-column-names"])
        .args(["-h", &login.host, "-P", &login.port.to_string()])
        .args(["-u", &login.user, &format!("-p{}", login.password)])
        .arg(&login.database);
    client
}

fn psql(login: &Login) -> Command {
    let mut client = Command::new("psql");
    client
        .args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1"])
        .args(["-h", &login.host, "-p", &login.port.to_string()])
        .args(["-U", &login.user, &login.database])
        .env("PGPASSWORD", &login.password);
    client
}

fn quoted(params: &[String]) -> Vec<String> {
    params.iter().map(|p| format!("'{p}'")).collect()
}

/// The same statement with its parameters bound, and a line of how many rows it changed or what it read.
fn mysql_script(s: &Statement) -> String {
    let names: Vec<String> = (1..=s.params.len()).map(|n| format!("@p{n}")).collect();
    let set: Vec<String> = names
        .iter()
        .zip(quoted(&s.params))
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    let count = if s.sql.starts_with("select") {
        ""
    } else {
        "select row_count();\n"
    };
    format!(
        "set {};\nprepare s from \"{}\";\nexecute s using {};\n{count}",
        set.join(", "),
        s.sql,
        names.join(", ")
    )
}

fn postgres_script(s: &Statement) -> String {
    let types = vec!["text"; s.params.len()].join(", ");
    let values = quoted(&s.params).join(", ");
    let count = if s.sql.starts_with("select") {
        ""
    } else {
        "\\echo :ROW_COUNT\n"
    };
    format!(
        "prepare s({types}) as {};\nexecute s({values});\n{count}deallocate s;\n",
        s.sql
    )
}

/// What DDL and plans do, call by call: rows of `origin`, rows of `current`, the reason.
fn calls(
    dialect: Dialect,
    style: ParamStyle,
    run: impl Fn(&str) -> String,
    script: fn(&Statement) -> String,
) {
    let table = dialect.default_table();
    let create = ddl::create(dialect, &table).join(";\n") + ";\n";
    run(&create);
    run(&create);
    let call = |op: &str| -> Vec<String> {
        let who = Identity::new("tcc", "g", "01", op).expect("an identity");
        let p = plan(dialect, &table, style, &who, "01").expect("a plan");
        let all = p.origin.iter().chain([&p.current, &p.reason]);
        all.map(|s| run(&script(s)).trim().to_owned()).collect()
    };
    assert_eq!(call("cancel"), ["1", "1", "cancel"], "{dialect}");
    assert_eq!(
        call("try"),
        ["0", "cancel"],
        "{dialect}: its undo came first"
    );
    assert_eq!(call("cancel"), ["0", "0", "cancel"], "{dialect}");
    assert_eq!(call("confirm"), ["1", "confirm"], "{dialect}");
    assert_eq!(call("confirm"), ["0", "confirm"], "{dialect}");
    // Another case is another gid, which MySQL's usual collations deny.
    let upper = Identity::new("tcc", "G", "01", "try").expect("an identity");
    let p = plan(dialect, &table, style, &upper, "01").expect("a plan");
    assert_eq!(run(&script(&p.current)).trim(), "1", "{dialect}");

    let message = Identity::new("msg", "m", "00", "msg").expect("an identity");
    let check = query_prepared(dialect, &table, style, &message);
    assert_eq!(run(&script(&check.current)).trim(), "1", "{dialect}");
    assert_eq!(run(&script(&check.reason)).trim(), "rollback", "{dialect}");

    let purge = |age: u64, limit: u32| {
        let s = ddl::purge(dialect, &table, style, age, limit);
        run(&script(&s)).trim().to_owned()
    };
    assert_eq!(purge(3_600, 100), "0", "{dialect}: all are young");
    run("update dtm_barrier.barrier set create_time = '2001-01-01'");
    assert_eq!(purge(3_600, 2), "2", "{dialect}");
    assert_eq!(purge(3_600, 100), "3", "{dialect}");
}

#[test]
fn plans_and_table_on_mariadb_and_postgresql() {
    let databases = Databases::start();
    calls(
        Dialect::MySql,
        ParamStyle::Question,
        |sql| feed(mariadb(databases.mariadb()), sql),
        mysql_script,
    );
    calls(
        Dialect::Postgres,
        ParamStyle::Dollar,
        |sql| feed(psql(databases.postgres()), sql),
        postgres_script,
    );
}
