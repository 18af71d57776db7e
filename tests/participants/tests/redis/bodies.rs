//! What a body may do, and what becomes of one that does not end well.

use crate::client::{Client, body, kind, pairs};
use amends::ErrorKind;
use amends::participant::BarrierResult::{Duplicate, Executed, NullCompensation};
use amends::participant::Identity;
use amends::participant::redis::AMOUNT_MAX;
use amends_interop::Redis;
use amends_participants::call;
use redis::Value;

#[test]
fn check_and_adjust_at_its_limits() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);
    let largest = (AMOUNT_MAX - 1).to_string();
    let n = &mut 0;
    let mut adjust = |balance: Option<&str>, amount| {
        *n += 1;
        let gid = format!("limit{n}");
        match balance {
            Some(balance) => client.set("account", balance),
            None => assert!(matches!(client.run("DEL account"), Value::Int(_))),
        }
        let result = client.adjust(&call(&gid, "action"), "account", amount);
        let after = client.get("account");
        match &result {
            Ok(_) => assert_eq!(client.markers(&gid).len(), 1),
            // Nothing was written, so nothing is marked, and nothing stays.
            Err(_) => {
                assert_eq!(client.markers(&gid), []);
                assert_eq!(after.as_deref(), balance);
            }
        }
        result.map(|_| after.expect("a balance")).map_err(|e| {
            assert!(e.message().contains("account"), "{e}");
            e.kind()
        })
    };
    assert_eq!(adjust(Some("8"), -8), Ok("0".to_owned()));
    assert_eq!(adjust(Some("7"), -8), Err(ErrorKind::Failure));
    assert_eq!(adjust(None, -8), Err(ErrorKind::Failure));
    assert_eq!(adjust(None, 8), Err(ErrorKind::Failure));
    // What is below zero already may rise.
    assert_eq!(adjust(Some("-8"), 3), Ok("-5".to_owned()));
    assert_eq!(
        adjust(Some(&largest), -AMOUNT_MAX + 1),
        Ok("0".to_owned()),
        "exact up to the end"
    );
    assert_eq!(adjust(Some("0"), AMOUNT_MAX - 1), Ok(largest.clone()));
    // Not a definite no: nobody knows.
    for (balance, amount) in [
        (largest.as_str(), 1),
        ("9007199254740993", -1),
        ("0", AMOUNT_MAX),
        ("9223372036854775807", 1),
        ("1.5", 1),
        ("abc", 1),
        ("007", 1),
        ("-0", 1),
        ("", 1),
    ] {
        let result = adjust(Some(balance), amount);
        assert_eq!(result, Err(ErrorKind::Database), "{balance:?} + {amount}");
    }
}

#[test]
fn a_body_that_fails_after_a_write_is_never_run_again() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);
    client.set("text", "not a number");
    let whole = "redis.call('INCR', KEYS[1])";
    for (n, end) in [
        "return redis.call('INCRBY', KEYS[2], 1)",
        "return redis.error_reply('FAILURE too late to refuse')",
        "return redis.pcall('INCRBY', KEYS[2], 1)",
        "error('some reason')",
        "error()",
        "error({})",
        "return nothing.at_all",
    ]
    .iter()
    .enumerate()
    {
        let (gid, count) = (format!("half{n}"), format!("count{n}"));
        // Whichever way it writes.
        let first = if n % 2 == 0 {
            whole
        } else {
            "redis.pcall('incr', KEYS[1])"
        };
        let failing = body(&format!("{first}\n{end}"), &[&count, "text"]);
        let action = call(&gid, "action");
        let marker = format!("{gid}-01-action-01");
        // The undo neither: half of an action cannot be undone as if it were whole.
        for op in ["action", "action", "compensate", "action", "compensate"] {
            let who = call(&gid, op);
            let (result, _) = client.call(&who, &failing);
            assert_eq!(kind(&result), ErrorKind::HalfDone, "{end}: {op}");
            let text = result.expect_err("an error").message().to_owned();
            assert!(text.contains(&marker), "{end}: {text}");
            assert!(!text.contains("nil") || end.contains("nothing"), "{text}");
            assert_eq!(client.get(&count).as_deref(), Some("1"), "{end}: {op}");
        }
        assert_eq!(client.markers(&gid), pairs(&[(&marker, "running")]));
        // A person decides that it was done; or that it was not.
        if n % 2 == 0 {
            client.set(&marker, "action");
            let (result, _) = client.call(&action, &failing);
            assert_eq!(result, Ok(Duplicate));
        } else {
            assert_eq!(client.run(&format!("DEL {marker}")), Value::Int(1));
            assert_eq!(
                client.call(&action, &body(whole, &[&count])).0,
                Ok(Executed)
            );
            assert_eq!(client.get(&count).as_deref(), Some("2"));
        }
    }
}

#[test]
fn a_body_that_fails_before_a_write_leaves_nothing() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);
    assert_eq!(client.run("RPUSH list a b"), Value::Int(2));
    let refusing = [
        "if redis.call('llen', KEYS[1]) < 3 then return redis.error_reply('FAILURE no stock') end",
        "return redis.error_reply('FAILURE')",
        "return {err = 'FAILURE no stock'}",
    ];
    let failing = [
        // A wrong type, by a command that only reads.
        "return redis.call('GET', KEYS[1])",
        "return redis.pcall('GET', KEYS[1])",
        "return redis.error_reply('FAILURES are something else')",
        "return redis.error_reply('no')",
        "error('FAILURE raised by accident')",
        "redis.call()",
        "KEYS[9] = ARGV[1] .. 'x'",
        "x = 1",
        // It sees nothing of the barrier's own.
        "return own",
    ];
    let all = refusing.iter().map(|text| (text, ErrorKind::Failure));
    for (n, (text, want)) in all
        .chain(failing.iter().map(|text| (text, ErrorKind::Database)))
        .enumerate()
    {
        let gid = format!("nothing{n}");
        let (action, undo) = (call(&gid, "action"), call(&gid, "compensate"));
        for _ in 0..2 {
            let (result, _) = client.call(&action, &body(text, &["list"]));
            assert_eq!(kind(&result), want, "{text}: {result:?}");
            assert_eq!(client.markers(&gid), [], "{text}");
        }
        // So its undo has nothing to do.
        let (result, _) = client.call(&undo, &body("return redis.call('DEL', 'list')", &["list"]));
        assert_eq!(result, Ok(NullCompensation));
    }
    assert_eq!(client.run("LLEN list"), Value::Int(2));
    let (result, _) = client.call(&call("no", "action"), &body(refusing[0], &["list"]));
    assert_eq!(result.expect_err("a no").message(), "no stock");

    let (result, _) = client.call(&call("syntax", "action"), &body("return end", &[]));
    assert_eq!(kind(&result), ErrorKind::Invalid);
    // Redis refuses the first write, so nothing is half done.
    assert_eq!(client.run("CONFIG SET maxmemory 1"), Value::Okay);
    let full = call("full", "action");
    let push = body("return redis.call('RPUSH', KEYS[1], 'c')", &["list"]);
    assert_eq!(kind(&client.call(&full, &push).0), ErrorKind::Database);
    assert_eq!(client.run("CONFIG SET maxmemory 0"), Value::Okay);
    assert_eq!(
        client.call(&full, &push),
        (Ok(Executed), Some(Value::Int(3))),
        "once there is room"
    );
}

#[test]
fn a_body_has_keys_arguments_and_a_value_of_its_own() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);
    let mut work = body(
        "return {#KEYS, KEYS[1], KEYS[2], #ARGV, ARGV[1], redis.sha1hex('')}",
        &["a", "b"],
    );
    work.args.push("x".into());
    let text = |text: &str| Value::BulkString(text.into());
    let sha = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
    // An undo has one marker more.
    for op in ["try", "cancel"] {
        let who = Identity::new("tcc", "own", "01", op).expect("an identity");
        let (result, value) = client.call(&who, &work);
        assert_eq!(
            (result, value),
            (
                Ok(Executed),
                Some(Value::Array(vec![
                    Value::Int(2),
                    text("a"),
                    text("b"),
                    Value::Int(1),
                    text("x"),
                    text(sha),
                ]))
            )
        );
    }
    for (n, (returns, value)) in [
        ("", Value::Nil),
        ("return nil", Value::Nil),
        ("return false", Value::Nil),
        ("return 'half_done'", text("half_done")),
        ("return redis.call('SET', KEYS[1], 'x')", Value::Okay),
        (
            "return redis.status_reply('FINE') -- why",
            Value::SimpleString("FINE".to_owned()),
        ),
        ("return {}", Value::Array(Vec::new())),
    ]
    .into_iter()
    .enumerate()
    {
        let who = call(&format!("value{n}"), "action");
        let got = client.call(&who, &body(returns, &["a"]));
        assert_eq!(got, (Ok(Executed), Some(value)), "{returns}");
        // The value is the first call's only.
        let again = client.call(&who, &body(returns, &["a"]));
        assert_eq!(again, (Ok(Duplicate), None));
    }
    // Errors name the line of the body.
    let (result, _) = client.call(
        &call("line", "action"),
        &body("local x\nerror('here')", &[]),
    );
    let error = result.expect_err("an error");
    assert!(error.message().contains("user_script:2: here"), "{error}");
}
