//! The barrier for the crate redis: any of its asynchronous connections, those to a cluster and `ConnectionManager` included.
//!
//! ```no_run
//! # use amends::{adapters::redis::Branch, participant::{BranchResult, Identity, redis::DEFAULT_TTL}};
//! # async fn take(identity: Identity, mut conn: redis::aio::MultiplexedConnection) -> BranchResult {
//! let branch = Branch::new(identity, DEFAULT_TTL);
//! let ran = branch.adjust(&mut conn, "stock:7", -1).await?;   // `Failure` where there is none left
//! Ok(ran.into())                                              // the answer's proof
//! # }
//! ```
//!
//! [`participant::redis`](crate::participant::redis) says what the scripts do and what Redis can lose. A script goes by its hash, and as a
//! text only to a server that does not have it; the user of Redis needs EVALSHA and SCRIPT LOAD beside the commands of the body.

use crate::branch::ROOT_BRANCH;
use crate::error::{Error, ErrorKind};
use crate::participant::barrier::{barrier_id, check_message};
use crate::participant::redis::{Reply, Script, Work, plan, query_prepared, read};
use crate::participant::{BarrierResult, BranchResult, Done, Identity};
use crate::time::Millis;
use redis::aio::ConnectionLike;
use redis::{RedisError, Value};

/// A branch call as this participant received it.
#[derive(Clone, Debug)]
pub struct Branch {
    who: Identity,
    part: String,
    tag: Option<String>,
    ttl: Millis,
}

impl Branch {
    /// The branch with this identity. Its markers live for `ttl` ms, which must be longer than any retry may come late:
    /// [`DEFAULT_TTL`](crate::participant::redis::DEFAULT_TTL) unless you know better.
    pub fn new(who: Identity, ttl: Millis) -> Branch {
        Branch {
            who,
            part: barrier_id(1),
            tag: None,
            ttl,
        }
    }

    /// Names a part of the branch, where it has several that run apart; the action's part and its undo's have the same name.
    /// The default is `01`.
    pub fn part(self, name: &str) -> Branch {
        Branch {
            part: name.to_owned(),
            ..self
        }
    }

    /// In a cluster: what stands between braces in every key of this branch, so that they are in one slot.
    pub fn hash_tag(self, tag: &str) -> Branch {
        Branch {
            tag: Some(tag.to_owned()),
            ..self
        }
    }

    /// Whose branch it is.
    pub fn identity(&self) -> &Identity {
        &self.who
    }

    /// Adds an amount to the integer at `key` behind the barrier, as [`Work::adjust`] says; [`Ran::into_value`] has what is there then.
    /// Errors: `Failure` where it is refused; `Database` where the key holds no integer, or one beyond 2^53, before anything is written; else
    /// as of [`Branch::run`].
    pub async fn adjust<C: ConnectionLike>(
        &self,
        conn: &mut C,
        key: impl Into<String>,
        amount: i64,
    ) -> Result<Ran, Error> {
        self.run(conn, &Work::adjust(&self.who.op, key, amount)?)
            .await
    }

    /// Runs a script's body of your own behind the barrier. Errors: `Failure` if it refused; `HalfDone` if it failed after a write, now or in
    /// an earlier call; `OutcomeUnknown` if no answer came, and it may be called again; `Duplicated` for a message whose gid was used before;
    /// `Invalid` for what cannot be run as it is, or by this user of Redis; `Database` if nothing was kept.
    pub async fn run<C: ConnectionLike>(&self, conn: &mut C, work: &Work) -> Result<Ran, Error> {
        let script = plan(&self.who, &self.part, self.tag.as_deref(), self.ttl, work)?;
        self.send(conn, &script).await
    }

    /// Answers a check-back (query-prepared): success if the message's own script was run, [`ErrorKind::Failure`] if it was not and cannot be
    /// any more; any other error is no answer.
    pub async fn check_back<C: ConnectionLike>(&self, conn: &mut C) -> BranchResult {
        check_message(ROOT_BRANCH, &self.part)?;
        let script = query_prepared(&self.who, self.tag.as_deref(), self.ttl)?;
        self.send(conn, &script).await.map(Done::from)
    }

    async fn send<C: ConnectionLike>(&self, conn: &mut C, script: &Script) -> Result<Ran, Error> {
        let text = redis::Script::new(&script.text);
        let mut call = text.prepare_invoke();
        for key in &script.keys {
            call.key(key);
        }
        for arg in &script.args {
            call.arg(&arg[..]);
        }
        let answer = call.invoke_async::<Value>(conn).await;
        let elements = match answer {
            Ok(Value::Array(elements)) => elements,
            Ok(_) => Vec::new(),
            Err(error) => return Err(failed(&self.who, &error)),
        };
        let mut elements = elements.into_iter();
        let (word, value) = (elements.next(), elements.next().unwrap_or(Value::Nil));
        let reply = Reply::Array {
            word: &word.map_or_else(String::new, |word| text_of(&word)),
            text: &text_of(&value),
        };
        let result = read(&self.who, reply)?;
        Ok(Ran { result, value })
    }
}

/// What a barrier let happen: the proof that the branch is done.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "it is what the answer to the coordinator rests on"]
pub struct Ran {
    result: BarrierResult,
    value: Value,
}

impl Ran {
    /// What it let happen. Anything but [`BarrierResult::Executed`] says that the body was not run by this call.
    pub fn result(&self) -> BarrierResult {
        self.result
    }

    /// What the body returned; `None` if it was not run by this call.
    pub fn into_value(self) -> Option<Value> {
        (self.result == BarrierResult::Executed).then_some(self.value)
    }
}

impl From<Ran> for Done {
    fn from(_: Ran) -> Done {
        Done(())
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        _ => String::new(),
    }
}

fn failed(who: &Identity, error: &RedisError) -> Error {
    use redis::ErrorKind as Kind;
    match error.kind() {
        Kind::Server(_) | Kind::Extension => {
            let (code, detail) = (error.code(), error.detail());
            let text = format!("{} {}", code.unwrap_or("ERR"), detail.unwrap_or_default());
            match read(who, Reply::Error(&text)) {
                Err(error) => error,
                Ok(_) => Error::new(ErrorKind::Internal, text),
            }
        }
        // Found out by the client, before it sent anything.
        Kind::Client | Kind::InvalidClientConfig | Kind::AuthenticationFailed => {
            Error::new(ErrorKind::Database, error.to_string())
        }
        // A connection to a cluster sends again by itself, so even a refused connection may follow a script that was run.
        _ => Error::new(
            ErrorKind::OutcomeUnknown,
            format!("whether the script was run is unknown: {error}"),
        ),
    }
}
