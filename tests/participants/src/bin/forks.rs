//! Uses the blocking client in a process and its child at the same time, as a forking web server does, and counts threads.

use amends::client::blocking::Client;
use amends::initiator::Saga;
use amends::{ErrorKind, Options};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("Linux").count()
}

fn saga(client: &Client, gid: &str) {
    let branch = std::env::var("AMENDS_BRANCH").expect("AMENDS_BRANCH is set");
    let options = Options {
        wait_result: true,
        ..Options::default()
    };
    let mut saga = Saga::new(gid, options);
    saga.step(&branch, "", "{}");
    let done = client.submit(&saga);
    done.unwrap_or_else(|e| panic!("{gid}: {:?} {e}", e.kind()));
    assert_eq!(threads(), 1, "{gid}: no thread was started");
}

#[expect(unsafe_code, reason = "there is no safe fork")]
fn fork() -> i32 {
    // SAFETY: this process has one thread.
    unsafe { libc::fork() }
}

#[expect(unsafe_code, reason = "waits for the child of fork")]
fn wait(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the pointer is valid for the call.
    unsafe { libc::waitpid(child, &mut status, 0) };
    status
}

fn main() {
    let client = Client::from_env().expect("a client");
    saga(&client, "before");
    let open = client.tcc("open", Options::default()).expect("prepared");
    let child = fork();
    if child == 0 {
        for n in 0..20 {
            saga(&client, &format!("child-{n}"));
        }
        let inherited = open.submit().expect_err("of the parent");
        assert_eq!(inherited.kind(), ErrorKind::Invalid);
        // What it inherited is left alone.
        drop(client);
        std::process::exit(0);
    }
    for n in 0..20 {
        saga(&client, &format!("parent-{n}"));
    }
    assert_eq!(wait(child), 0, "the child failed");
    saga(&client, "after");
    open.submit()
        .expect("confirmed, although there is nothing to confirm");
    println!("ok");
}
