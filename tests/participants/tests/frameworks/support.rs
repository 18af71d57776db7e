//! A bank behind a barrier on SQLite, and a server for it.

use amends::adapters::sqlx::{Backend, Begun};
use amends::participant::{BranchResult, Identity};
use amends::{Error, ErrorKind};
use amends_participants::{Bank, plain, sqlite};
use sqlx::Sqlite;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A server in this process; it stops when this is dropped.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Running {
    /// Serves on a free port.
    pub(crate) async fn start<F>(serve: impl FnOnce(TcpListener) -> F) -> Running
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = socket.local_addr().expect("a bound address");
        let task = tokio::spawn(serve(socket));
        Running { addr, task }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A call, and how it was answered if not well.
pub(crate) type Taken = (Identity, Option<ErrorKind>);

/// A bank whose gids say what happens in it, and the calls it had.
#[derive(Clone)]
pub(crate) struct Counter {
    pub(crate) bank: Bank<Sqlite>,
    pub(crate) calls: Arc<Mutex<Vec<Taken>>>,
    _dir: Arc<TempDir>,
}

impl Counter {
    pub(crate) async fn open() -> Counter {
        let dir = TempDir::new().expect("a folder");
        Counter {
            bank: sqlite(dir.path()).await,
            calls: Arc::default(),
            _dir: Arc::new(dir),
        }
    }

    /// Takes a branch call.
    pub(crate) async fn take(&self, who: Identity) -> BranchResult {
        let result = self.carry_out(who.clone()).await;
        let kind = result.as_ref().err().map(Error::kind);
        self.calls.lock().expect("a lock").push((who, kind));
        result
    }

    async fn carry_out(&self, who: Identity) -> BranchResult {
        let action = who.op.as_str() == "action";
        let first = !self.seen(who.gid.as_str()).contains(&name(&who));
        let gid = who.gid.as_str().to_owned();
        if gid == "later" && first {
            return Err(Error::new(ErrorKind::Ongoing, "not yet"));
        }
        let refused = match gid.as_str() {
            "refused" => Some("no such account"),
            // Servers of DTM before 1.10 said by this word that a branch goes on.
            "old-word" => Some("ONGOING"),
            _ => None,
        };
        let refused = refused.filter(|_| action && who.branch_id == "02");
        let amount = if action { -30 } else { 30 };
        let done = match self.bank.branch(who).begin(&self.bank.pool).await? {
            Begun::Skip(skipped) => skipped.into(),
            Begun::Run(mut run) => {
                let sql = format!("update account set balance = balance + {amount} where id = 1");
                Sqlite::exec(&mut run, plain(&sql)).await?;
                match refused {
                    Some(why) => return Err(run.refuse(why).await),
                    None => run.commit().await?.into(),
                }
            }
        };
        if gid == "lost" && first {
            return Err(Error::new(ErrorKind::Internal, "its FAILURE is no refusal"));
        }
        Ok(done)
    }

    /// The calls of a gid so far.
    pub(crate) fn seen(&self, gid: &str) -> Vec<String> {
        let calls = self.calls.lock().expect("a lock");
        let of_gid = calls.iter().filter(|(who, _)| who.gid.as_str() == gid);
        of_gid.map(|(who, _)| name(who)).collect()
    }

    /// Their answers.
    pub(crate) fn answers(&self, gid: &str) -> Vec<Option<ErrorKind>> {
        let calls = self.calls.lock().expect("a lock");
        let of_gid = calls.iter().filter(|(who, _)| who.gid.as_str() == gid);
        of_gid.map(|(_, kind)| *kind).collect()
    }
}

pub(crate) fn name(who: &Identity) -> String {
    format!("{}/{}", who.branch_id, who.op)
}

pub(crate) fn headers(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}
