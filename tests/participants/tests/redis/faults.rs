//! What happens to a connection, to the server's cache of scripts, to markers, and to what a user of Redis may do.

use crate::client::{Client, body, branch, kind};
use amends::ErrorKind;
use amends::adapters::redis::Branch;
use amends::participant::BarrierResult::{Duplicate, Executed, NullCompensation};
use amends::participant::Done;
use amends_interop::Redis;
use amends_participants::call;
use redis::Value;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A way to a server that keeps the next answer to itself and closes the connection once it is told to.
struct Way {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl Way {
    fn to(server: u16) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let cut = Arc::new(AtomicBool::new(false));
        let told = cut.clone();
        std::thread::spawn(move || {
            // One connection is all that a test makes.
            let (client, _) = listener.accept().expect("a connection");
            let server = TcpStream::connect(("127.0.0.1", server)).expect("a connection");
            let (mut from, mut to) = (
                client.try_clone().expect("a handle"),
                server.try_clone().expect("a handle"),
            );
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            let (mut from, mut to) = (server, client);
            let mut bytes = [0; 4_096];
            while let Ok(n) = from.read(&mut bytes) {
                if n == 0 || told.load(Ordering::SeqCst) || to.write_all(&bytes[..n]).is_err() {
                    break;
                }
            }
            for stream in [from, to] {
                // It may be closed already.
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        Way { port, cut }
    }
}

#[test]
fn a_lost_answer_is_unknown_and_the_same_call_again_applies_once() {
    let redis = Redis::start();
    let mut direct = Client::new(&redis);
    direct.set("account", "100");
    for (op, left) in [("action", "70"), ("compensate", "100")] {
        let who = call("lost", op);
        let way = Way::to(redis.port());
        let mut client = Client::of(way.port);
        // The script is there, so the answer that is lost is its own.
        let amount = if op == "action" { -30 } else { 30 };
        let first = client.adjust(&call("other", op), "other", 0);
        assert!(first.is_err() || first == Ok(NullCompensation));
        way.cut.store(true, Ordering::SeqCst);
        let lost = client.adjust(&who, "account", amount);
        assert_eq!(kind(&lost), ErrorKind::OutcomeUnknown);
        assert_eq!(direct.get("account").as_deref(), Some(left), "it was run");
        // The connection is gone, and says so of all that follows.
        let gone = client.adjust(&who, "account", amount);
        assert_eq!(kind(&gone), ErrorKind::OutcomeUnknown);
        assert_eq!(direct.adjust(&who, "account", amount), Ok(Duplicate));
        assert_eq!(direct.get("account").as_deref(), Some(left));
    }
}

#[test]
fn a_server_that_forgot_its_scripts_is_given_them_again() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);
    client.set("account", "100");
    for n in 0..3 {
        let who = call(&format!("flushed{n}"), "action");
        assert_eq!(client.adjust(&who, "account", -1), Ok(Executed));
        assert_eq!(client.run("SCRIPT FLUSH SYNC"), Value::Okay);
        assert_eq!(client.adjust(&who, "account", -1), Ok(Duplicate));
        assert_eq!(client.run("SCRIPT FLUSH SYNC"), Value::Okay);
    }
    assert_eq!(client.get("account").as_deref(), Some("97"));
}

/// What the documentation says of markers that live too short.
#[test]
fn a_call_after_its_marker_s_life_is_carried_out_again() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);
    client.set("account", "100");
    let who = call("short", "action");
    let short = Branch::new(who.clone(), 50);
    assert_eq!(client.adjust_of(&short, "account", -1), Ok(Executed));
    let end = Instant::now() + Duration::from_secs(30);
    while client.get("short-01-action-01").is_some() {
        assert!(Instant::now() < end, "the marker outlives its time");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(client.adjust(&who, "account", -1), Ok(Executed));
    assert_eq!(client.adjust(&who, "account", -1), Ok(Duplicate));
    assert_eq!(client.get("account").as_deref(), Some("98"));
    let never = Branch::new(who, 0);
    let refused = client.adjust_of(&never, "account", -1);
    assert_eq!(kind(&refused), ErrorKind::Invalid);
}

#[test]
fn what_a_user_of_redis_may_not_do_is_a_readable_error() {
    let redis = Redis::start();
    let mut admin = Client::new(&redis);
    admin.set("account", "100");
    let mut at = |name: &str, rules: &str| {
        let made = admin.run(&format!("ACL SETUSER {name} on >secret {rules}"));
        assert_eq!(made, Value::Okay);
        Client::at(&format!("redis://{name}:secret@127.0.0.1:{}", redis.port()))
    };
    let take = call("acl", "action");
    // No scripts; no way to bring a new one; no key but the account.
    let mut none = at("none", "~* +@all -@scripting");
    let mut known = at("known", "~* +@all -script");
    let mut keys = at("keys", "~account +@all");
    for client in [&mut none, &mut known, &mut keys] {
        let error = client.adjust(&take, "account", -1);
        let error = error.expect_err("to be refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.message().contains("EVALSHA"), "{error}");
    }
    // A write that is refused counts as one: a person looks, and finds that nothing was written.
    let mut body_only = at("body", "~* +@all -incrby");
    let refused = body_only.adjust(&take, "account", -1);
    assert_eq!(kind(&refused), ErrorKind::HalfDone);
    let marker = "DEL acl-01-action-01";
    assert_eq!(admin.run(marker), Value::Int(1));
    assert_eq!(admin.get("account").as_deref(), Some("100"));
    assert_eq!(admin.adjust(&take, "account", -1), Ok(Executed));
    // Once the server has the script, its hash is enough.
    let more = call("more", "action");
    assert_eq!(known.adjust(&more, "account", -1), Ok(Executed));
    assert_eq!(admin.get("account").as_deref(), Some("98"));
}

#[test]
fn the_adapter_s_value_is_the_proof_of_the_answer() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);
    client.set("account", "100");
    let who = branch(&call("proof", "action"));
    let take = body("return redis.call('DECR', KEYS[1])", &["account"]);
    let ran = client.call_of(&who, &take).expect("no error");
    assert_eq!(ran.clone().into_value(), Some(Value::Int(99)));
    let answer = amends::participant::answer::answer(&Ok(Done::from(ran)));
    assert_eq!(answer.status, 200);
    let again = client.call_of(&who, &take).expect("no error");
    assert_eq!((again.result(), again.into_value()), (Duplicate, None));
}
